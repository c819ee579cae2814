"""sample_size that is no whole number of latent frames is rounded down, as in stable-audio-tools."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stable_audio.config import ConfigError, load_config
from stable_audio.data import Batch
from stable_audio.factory import create_model_from_config
from stable_audio.training.build import build_training
from tests import tiny
from tests.config import examples


def patched(data: dict[str, Any]) -> dict[str, Any]:
    data["model"]["diffusion"]["config"]["patch_size"] = 3
    return data


@pytest.mark.parametrize(
    ("build", "size", "rounded", "source"),
    [
        (examples.cond, 1020, 1016, "a multiple of 8 = 8 (samples per latent frame) x 1 (backbone)"),
        (
            lambda: patched(examples.cond()),
            1024,
            1008,
            "a multiple of 24 = 8 (samples per latent frame) x 3 "
            "(backbone $.model.diffusion.config.patch_size)",
        ),
        (examples.uncond, 255, 252, "a multiple of 4 = 4 (samples per latent frame) x 1 (backbone)"),
        (examples.autoencoder, 1001, 1000, "a multiple of downsampling_ratio 8"),
    ],
)
def test_it_is_rounded_down_with_a_note(
    build: Callable[[], dict[str, Any]],
    size: int,
    rounded: int,
    source: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = build()
    data["sample_size"] = size
    with caplog.at_level(logging.WARNING):
        config = load_config(data)
    assert config.sample_size == config.as_dict()["sample_size"] == rounded
    assert f"$.sample_size: found {size}, rounded down to {rounded}, {source}" in caplog.text
    assert data["sample_size"] == size


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_factor_of_zero_is_a_mistake_of_the_backbone() -> None:
    data = examples.cond()
    config = {**tiny.BACKBONES["adp_cfg_1d"], "factors": [0]}
    data["model"]["diffusion"] = {"type": "adp_cfg_1d", "config": config}
    del data["model"]["pretransform"], data["training"]
    with pytest.raises(
        ConfigError, match=r"clips would be cut into 0 = 1 .*factors\); give factors of at least 1"
    ):
        load_config(data)


def test_what_fits_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_config(examples.cond()).sample_size == 1024
    assert not caplog.records


def test_a_caller_for_whom_lengths_do_not_matter_gets_the_size_of_the_file() -> None:
    data = examples.cond()
    data["sample_size"] = 1020
    assert load_config(data, skip_rules=("sample_size",)).sample_size == 1020


def test_the_rounded_size_trains() -> None:
    data = patched(examples.cond())
    config = load_config(data)
    module = build_training(config, create_model_from_config(config))
    metadata = [{"prompt": "a", "seconds_start": 0, "seconds_total": 1}] * 2
    loss = module.training_step(Batch(torch.randn(2, 2, config.sample_size), metadata), 0)
    assert torch.isfinite(loss)
