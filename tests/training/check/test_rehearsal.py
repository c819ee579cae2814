"""The rehearsal tells before a run what would end it."""

from __future__ import annotations

import pytest

from stable_audio.config import load_config
from stable_audio.training.check.rehearsal import rehearse
from stable_audio.training.errors import TrainingError
from tests.training.autoencoder.test_autoencoder import tiny_config as autoencoder_config
from tests.training.building import DATASET, demo_section, tiny_config


def test_a_sound_config_passes() -> None:
    report = rehearse(
        load_config(tiny_config(demo=demo_section(demo_every=2000))), DATASET, accelerator="cpu"
    )
    assert 0 < report["loss"] < 10
    assert report["demo_seconds"] > 0
    assert report["peak_memory_bytes"] > 1e6


def test_a_failing_demo_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_audio.training.diffusion import demos

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(demos, "generate", fail)
    with pytest.raises(TrainingError, match="out of memory"):
        rehearse(load_config(tiny_config(demo=demo_section())), DATASET, accelerator="cpu")


def test_a_config_without_training_is_an_error() -> None:
    config = tiny_config()
    del config["training"]
    with pytest.raises(TrainingError, match=r"\$\.training is missing"):
        rehearse(load_config(config), DATASET, accelerator="cpu")


def test_an_autoencoder_meets_its_discriminator_despite_the_warm_up() -> None:
    config = autoencoder_config(warmup_steps=100)
    report = rehearse(load_config(config), DATASET, accelerator="cpu")
    assert report["loss"] > 0
    losses = config["training"]["loss_configs"]
    losses["discriminator"] = {"type": "encodec", "config": {"filters": 2}}
    with pytest.raises(ValueError, match="window has 1024 samples, the audio 512"):
        rehearse(load_config(config), DATASET, accelerator="cpu")
