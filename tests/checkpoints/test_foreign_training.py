"""A published model whose training cannot be continued here still loads for use."""

from __future__ import annotations

from pathlib import Path

import pytest

from stable_audio.checkpoints import load_model, save_inference_file
from stable_audio.config import ConfigError
from stable_audio.inference.codec.load import load_codec
from tests.checkpoints.test_named_pretransforms import save_autoencoder
from tests.cli.test_codec_commands import AUTOENCODER
from tests.inference import tiny

POST_TRAINED = {"arc": {"use_model_as_discriminator": True, "noise_dist": {"generator": "uniform"}}}


def test_a_post_trained_model_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = {**tiny.config("rf_denoiser"), "training": POST_TRAINED}
    save_inference_file(
        tmp_path / "a.safetensors", tiny.build(tiny.config("rf_denoiser")).state_dict(), config
    )
    model, loaded = load_model(tmp_path / "a.safetensors")
    assert model.objective.name == "rf_denoiser"
    assert loaded.as_dict() == tiny.config("rf_denoiser")
    assert "the section 'training' is left out" in caplog.text
    assert "$.training.arc" in caplog.text


def test_its_codec_loads(tmp_path: Path) -> None:
    state = save_autoencoder(tmp_path / "plain.safetensors").state_dict()
    config = {**AUTOENCODER, "training": {**POST_TRAINED, "unheard_of": 1}}
    save_inference_file(tmp_path / "ae.safetensors", state, config)
    assert load_codec(ckpt_path=tmp_path / "ae.safetensors").sample_rate == AUTOENCODER["sample_rate"]


def test_other_mistakes_are_errors(tmp_path: Path) -> None:
    config = {**tiny.config(), "training": POST_TRAINED}
    state = tiny.build(tiny.config()).state_dict()
    config["model"] = {**config["model"], "unheard_of": 1}
    save_inference_file(tmp_path / "a.safetensors", state, config)
    with pytest.raises(ConfigError, match="unheard_of"):
        load_model(tmp_path / "a.safetensors")
