"""An autoencoder, its latents on disk, and diffusion on them: from the commands to a sound file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stable_audio.cli import main
from stable_audio.config import load_config
from stable_audio.config.parts import build_autoencoder
from stable_audio.data import DataError
from stable_audio.data.latents import read_manifest
from tests.cli.test_codec_commands import AUTOENCODER
from tests.data.folders import RATE, make_folder
from tests.training.building import tiny_run


def _autoencoder(path: Path, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(build_autoencoder(load_config(AUTOENCODER).model).state_dict(), path)
    return path


def _diffusion() -> dict[str, Any]:
    return {
        "model_type": "diffusion_uncond",
        "sample_rate": RATE,
        "sample_size": 800,
        "audio_channels": 1,
        "model": {
            "type": "dit",
            "config": {"in_channels": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
            "pretransform": {"type": "autoencoder", "config": AUTOENCODER["model"], "scale": 0.5},
        },
        "training": {"learning_rate": 1e-3, "pre_encoded": True},
    }


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    make_folder(tmp_path / "in", {f"{i}.wav": 900 + 400 * i for i in range(6)})
    (tmp_path / "ae.json").write_text(json.dumps(AUTOENCODER))
    weights = _autoencoder(tmp_path / "ae.safetensors", 0)
    arguments = ["--model-config", str(tmp_path / "ae.json"), "--ckpt-path", str(weights)]
    folder = tmp_path / "latents"
    assert main(["encode", str(tmp_path / "in"), "-o", str(folder), "--num-workers", "0", *arguments]) == 0
    return folder


def _run(folder: Path, latents: Path, weights: Path) -> Any:
    dataset = {
        "dataset_type": "pre_encoded",
        "datasets": [{"id": "z", "path": str(latents)}],
        "latent_crop_length": 100,
        "random_crop": True,
    }
    return tiny_run(folder, _diffusion(), dataset=dataset, pretransform_ckpt_path=str(weights), max_steps=3)


def test_training_on_latents_and_rendering(tmp_path: Path, latents: Path) -> None:
    manifest = read_manifest(latents)
    assert manifest["complete"]
    assert manifest["channels"] == 4
    assert _run(tmp_path, latents, tmp_path / "ae.safetensors").start() == 0
    out = tmp_path / "sounds"
    done = main(["generate", "--ckpt-path", str(tmp_path / "run"), "--steps", "2", "--out", str(out)])
    assert done == 0
    assert list(out.rglob("*.wav"))


def test_latents_of_another_autoencoder_are_refused(tmp_path: Path, latents: Path) -> None:
    other = _autoencoder(tmp_path / "other.safetensors", 1)
    with pytest.raises(DataError, match="made by another autoencoder"):
        _run(tmp_path, latents, other).start()
