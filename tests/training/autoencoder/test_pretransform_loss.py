"""`loss_configs.pretransform`: autoencoders compared in the space of their own pretransform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import load_pretrained, save_inference_file
from stable_audio.config import load_config
from stable_audio.config.reporting.problems import ConfigError
from stable_audio.data.base import Batch
from stable_audio.factory import create_model_from_config
from stable_audio.pretransforms import Autoencoder
from tests import tiny
from tests.training.autoencoder.test_autoencoder import (
    AUDIO,
    DISCRIMINATOR,
    SPECTRAL,
    grads,
    module_of,
    tiny_config,
)


def over_patches(losses: dict[str, Any]) -> dict[str, Any]:
    """The tiny autoencoder on the values of a patched pretransform."""
    config = tiny_config(losses)
    model = config["model"]
    patch = 4
    model["pretransform"] = {"type": "patched", "config": {"channels": 2, "patch_size": patch}}
    model["encoder"]["config"] = {**model["encoder"]["config"], "in_channels": 2 * patch}
    model["decoder"]["config"] = {**model["decoder"]["config"], "out_channels": 2 * patch}
    model["downsampling_ratio"] *= patch
    return config


def test_it_is_the_distance_of_the_transformed_values() -> None:
    module = module_of(over_patches({"pretransform": {"weights": {"l1": 2.0, "l2": 3.0}}}))
    module.terms.terms = [t for t in module.terms.terms if "kl" not in t.name]
    loss = module.generator_step(AUDIO, 0, noise=torch.zeros_like)
    model = module.model
    difference = model.decoder(model.encode(AUDIO, noise=torch.zeros_like)) - model.transform(AUDIO)
    expected = 2 * difference.abs().mean() + 3 * difference.square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(grads(model))


def test_sound_is_made_only_where_something_hears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []
    original = Autoencoder.undo_transform

    def noted(self: Autoencoder, values: torch.Tensor) -> torch.Tensor:
        made.append(values)
        return original(self, values)

    monkeypatch.setattr(Autoencoder, "undo_transform", noted)
    inner = {"weights": {"l1": 1.0}}
    for losses, times in (
        ({"pretransform": inner}, 0),
        ({"pretransform": inner, "spectral": SPECTRAL}, 1),
        ({"pretransform": inner, "discriminator": DISCRIMINATOR}, 1),
        ({"spectral": SPECTRAL}, 1),
    ):
        made.clear()
        module = module_of(over_patches(losses))
        assert module.generator_step(AUDIO, 0, noise=torch.zeros_like).isfinite()
        assert len(made) == times, losses
    quiet = module_of(over_patches({"pretransform": inner}))
    made.clear()
    found = quiet.validation_values(Batch(audio=AUDIO, metadata=[{}, {}]), [0, 1])
    assert {"val/sisdr", "val/stft"} <= set(found)
    assert len(made) == 1


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_an_autoencoder_goes_on_from_the_file_of_another(suffix: str, tmp_path: Path) -> None:
    """Its own pretransform is no place for the weights of a whole autoencoder."""
    config = over_patches({"pretransform": {"weights": {"l1": 1.0}}})
    trained, fresh = (create_model_from_config(load_config(config)) for _ in range(2))
    path = tmp_path / f"autoencoder.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": trained.state_dict()}, path)
    else:
        save_inference_file(path, trained.state_dict(), config)
    report = load_pretrained(fresh, path)
    assert report.complete
    assert len(report.loaded) == len(trained.state_dict())
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            tiny_config({"spectral": SPECTRAL, "pretransform": {"weights": {"l1": 1.0}}}),
            r"loss_configs\.pretransform: it compares values of the autoencoder",
        ),
        (over_patches({"pretransform": {}}), r"loss_configs: nothing compares"),
        (over_patches({"pretransform": {"weights": {"l3": 1.0}}}), r"weights\.l3: unknown key"),
    ],
)
def test_what_compares_nothing_is_refused(config: dict[str, Any], words: str) -> None:
    assert "pretransform" not in tiny.PRETRANSFORMS["autoencoder"], "the tiny one works on sound itself"
    with pytest.raises(ConfigError, match=words):
        module_of(config)
