"""Autoencoders with a pretransform of their own, and the types of their losses."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from stable_audio.config import ConfigError, load_config
from stable_audio.pretransforms.discriminators.encodec import EncodecDiscriminator
from tests.config import examples


def wavelet(**keys: Any) -> dict[str, Any]:
    """An autoencoder of two channels in the space of a wavelet transform."""
    data = examples.autoencoder()
    model = data["model"]
    model["pretransform"] = {
        "type": "wavelet",
        "config": {"channels": 2, "levels": 2, "wavelet": "bior2.2"},
    }
    model["encoder"]["config"]["in_channels"] = model["decoder"]["config"]["out_channels"] = 8
    model["downsampling_ratio"] = 32
    model.update(keys)
    return data


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    return [str(p) for p in caught.value.problems]


def test_the_channels_are_those_of_the_pretransform() -> None:
    assert load_config(wavelet()).model.io_channels == 2
    assert load_config(wavelet(io_channels=8, in_channels=2, out_channels=2)).model.io_channels == 8


@pytest.mark.parametrize("channels", [1, 8])
def test_wrong_io_channels_are_told(channels: int) -> None:
    assert problems(wavelet(io_channels=channels)) == [
        f"$.model.io_channels: found {channels}, but its pretransform is for 2 channels of audio; set it to 2"
    ]


def test_a_wrong_override_is_told_at_its_key() -> None:
    assert problems(wavelet(out_channels=1)) == [
        "$.model.out_channels: found 1, but its pretransform is for 2 channels of audio; set it to 2"
    ]


def test_wrong_io_channels_of_a_pretransform_are_told() -> None:
    data = examples.cond()
    data["model"]["pretransform"]["config"] = wavelet(io_channels=1)["model"]
    data["sample_size"] = 1024
    expected = "$.model.pretransform.config.io_channels: found 1, but its pretransform is for 2 channels"
    assert [p for p in problems(data) if p.startswith(expected)]


def typed(section: str, kind: str) -> dict[str, Any]:
    data = examples.autoencoder()
    losses = data["training"]["loss_configs"]
    losses[section] = {**losses.get(section, {}), "type": kind}
    return data


@pytest.mark.parametrize(
    ("section", "typo", "name"),
    [("spectral", "mrsft", "mrstft"), ("mrmel", "mrmell", "mrmel"), ("hubert", "huber", "hubert")],
)
def test_a_mistyped_loss_is_told(section: str, typo: str, name: str) -> None:
    path = f"$.training.loss_configs.{section}.type"
    assert f"{path}: found \"{typo}\"; did you mean '{name}'?" in problems(typed(section, typo))


def test_a_mistyped_discriminator_is_told() -> None:
    assert "did you mean 'encodec'?" in problems(typed("discriminator", "encodc"))[0]


def test_another_loss_than_that_of_the_section_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_config(typed("spectral", "loudness"))
    message = '$.training.loss_configs.spectral.type: found "loudness", which is not read: this section is'
    assert message in caplog.text


@pytest.mark.parametrize(("section", "kind"), [("spectral", "mrstft"), ("time", "l1"), ("bottleneck", "kl")])
def test_usual_types_are_silent(section: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_config(typed(section, kind))
    assert "loss_configs" not in caplog.text


@pytest.mark.parametrize(
    ("section", "config", "path", "message"),
    [
        ("discriminator", {"hop_lengths": [8]}, ".config", "need one entry per resolution"),
        ("discriminator", {"filters": 0}, ".config.filters", "greater than 0"),
        ("discriminator", {"kernel_size": [0, 9]}, ".config.kernel_size[0]", "greater than 0"),
        ("discriminator", {"dilations": [1, 0]}, ".config.dilations[1]", "greater than 0"),
        ("discriminator", {"hop_lengths": [256, 0, 128]}, ".config.hop_lengths[1]", "greater than 0"),
        ("discriminator", {"win_lengths": [1024, 4096, 512]}, ".config", "at most n_ffts"),
        ("discriminator", {"kernel_size": [4, 9]}, ".config", "give odd sizes, or longer clips"),
        ("spectral", {"hop_sizes": [8]}, ".config", "need one entry per resolution"),
        (
            "spectral",
            {"fft_sizes": [8], "hop_sizes": [4], "win_lengths": [16]},
            ".config",
            "at most fft_size",
        ),
        ("mrmel", {"n_mels": [4, 4, 4], "window_lengths": [64]}, ".config", "n_mels"),
    ],
)
def test_losses_that_cannot_be_built_are_named_at_load(
    section: str, config: dict[str, Any], path: str, message: str
) -> None:
    data = examples.autoencoder()
    data["training"]["loss_configs"] = {section: {"config": config}, "time": {"weights": {"l1": 1.0}}}
    if section == "discriminator":
        data["training"]["loss_configs"][section]["type"] = "encodec"
    with pytest.raises(ConfigError) as refused:
        load_config(data)
    (problem,) = refused.value.problems
    assert problem.path == f"$.training.loss_configs.{section}{path}"
    assert message in problem.message


def discriminated(kind: str, **config: Any) -> dict[str, Any]:
    data = examples.autoencoder()
    data["sample_size"] = 8192
    discriminator = {"type": kind, "config": config}
    data["training"]["loss_configs"] = {"discriminator": discriminator, "time": {"weights": {"l1": 1.0}}}
    return data


@pytest.mark.parametrize("config", [{"kernel_size": [4, 8]}, {"dilations": []}])
def test_even_kernels_on_long_clips_and_no_dilations_are_taken(config: dict[str, Any]) -> None:
    load_config(discriminated("encodec", **config))
    assert EncodecDiscriminator(in_channels=1, **config).judge(torch.randn(1, 1, 8192))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bands": []}, "bands must be pairs of fractions"),
        ({"bands": [[0.5, 0.1]]}, "bands must be pairs of fractions"),
        ({"periods": [0]}, "greater than 0"),
        ({"rates": [0]}, "greater than 0"),
    ],
)
def test_parts_of_dac_discriminators_that_cannot_work_are_named_at_load(
    config: dict[str, Any], message: str
) -> None:
    (problem,) = problems(discriminated("dac", **config))
    assert message in problem


def test_a_wavelet_of_more_levels_than_any_clip_has_is_a_mistake() -> None:
    data = wavelet()
    data["model"]["pretransform"]["config"]["levels"] = 100_000
    assert any("levels from 1 to 24" in problem for problem in problems(data))
