"""Diffusion autoencoders in the commands that turn audio into latents and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.checkpoints import export
from stable_audio.cli import main
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.factory import create_model_from_config
from stable_audio.inference.codec.load import load_codec
from tests.data.folders import RATE, make_folder
from tests.training.autoencoder.test_diffusion_autoencoder import inner_config, tiny_config


def _saved(folder: Path, config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = create_model_from_config(config).eval()
    export(model, folder / "m.safetensors", config=config)
    return model


@pytest.mark.parametrize("make", [tiny_config, inner_config])
def test_it_is_the_model(tmp_path: Path, make: Any) -> None:
    model, codec = _saved(tmp_path, make()), load_codec(ckpt_path=tmp_path / "m.safetensors").pretransform
    audio = torch.sin(torch.arange(1024) * 0.1).view(1, 2, 512)
    with torch.no_grad():
        latents = codec.encode(audio, noise=torch.zeros_like)
        assert torch.equal(latents, model.encode(audio, noise=torch.zeros_like))
        assert latents.shape == (1, codec.encoded_channels, 512 // codec.downsampling_ratio)
        expected = model.decode(latents, noise=SeededNoise([0]), steps=50)
        assert torch.equal(codec.decode(latents), expected)


def test_lengths_that_the_backbone_cannot_take_are_padded(tmp_path: Path) -> None:
    config = tiny_config()
    config["model"]["diffusion"]["config"].update(depth=4, channels=[8] * 4, strides=[4, 4, 2])
    _saved(tmp_path, config)
    codec = load_codec(ckpt_path=tmp_path / "m.safetensors").pretransform
    with torch.no_grad():
        assert codec.decode(torch.zeros(2, 4, 5)).shape == (2, 2, 40)


def test_without_weights_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(tiny_config()))
    with pytest.raises(ValueError, match="give --ckpt-path"):
        load_codec(model_config=path)
    assert load_codec(model_config=path, allow_untrained=True).sample_rate == 4000


def test_commands(tmp_path: Path) -> None:
    _saved(tmp_path, {**tiny_config(), "sample_rate": RATE})
    source = str(make_folder(tmp_path / "in", {"a.wav": 812}, channels=2))
    weights = ["--ckpt-path", str(tmp_path / "m.safetensors"), "--device", "cpu"]
    assert main(["reconstruct", source, "-o", str(tmp_path / "re"), *weights]) == 0
    z, out = str(tmp_path / "z"), tmp_path / "out"
    assert main(["encode", source, "-o", z, "--num-workers", "0", *weights]) == 0
    assert main(["decode", z, "-o", str(out), *weights]) == 0
    (sound,) = out.rglob("*.wav")
    assert read_audio(sound)[0].shape[0] == 2
