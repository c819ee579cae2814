"""From a folder of captioned sounds to prompts, by commands alone, through an autoencoder of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stable_audio.audio.io import read_audio
from stable_audio.checkpoints import load_model
from stable_audio.cli import main
from stable_audio.model import DiffusionModel
from tests.cli.test_codec_commands import AUTOENCODER
from tests.data.folders import RATE, make_folder
from tests.training.autoencoder.test_autoencoder import SPECTRAL


def _diffusion(autoencoder: Path) -> dict[str, Any]:
    text = {"width": 8, "layers": 1, "heads": 2, "max_length": 10, "vocab_size": 258}
    return {
        "model_type": "diffusion_cond",
        "sample_rate": RATE,
        "sample_size": 800,
        "audio_channels": 1,
        "model": {
            "io_channels": 4,
            "pretransform": {"type": "autoencoder", "path": str(autoencoder)},
            "conditioning": {
                "cond_dim": 8,
                "configs": [{"id": "prompt", "type": "clip_text", "config": text}],
            },
            "diffusion": {
                "type": "dit",
                "diffusion_objective": "rectified_flow",
                "cross_attention_cond_ids": ["prompt"],
                "config": {
                    "io_channels": 4,
                    "embed_dim": 8,
                    "depth": 1,
                    "num_heads": 1,
                    "cond_token_dim": 8,
                },
            },
        },
        "training": {"learning_rate": 1e-3, "pre_encoded": True},
    }


def _json(path: Path, content: dict[str, Any]) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def _train(folder: Path, name: str, config: dict[str, Any], dataset: dict[str, Any]) -> Path:
    arguments = ["--model-config", _json(folder / f"{name}.json", config)]
    arguments += ["--dataset-config", _json(folder / f"{name}_data.json", dataset), "--name", name]
    arguments += ["--save-dir", str(folder), "--max-steps", "2", "--batch-size", "2", "--num-workers", "0"]
    assert main(["train", *arguments, "--accelerator", "cpu", "--devices", "1", "--no-progress"]) == 0
    return folder / name


def test_from_sounds_to_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sounds = make_folder(tmp_path / "in", {f"{i}.wav": 900 + 100 * i for i in range(4)})
    for i in range(4):
        (sounds / f"{i}.txt").write_text(f"ramp {i}\n")
    audio = {
        "dataset_type": "audio_dir",
        "datasets": [{"id": "a", "path": str(sounds), "captions": True}],
    }
    training = {"learning_rate": 1e-3, "loss_configs": {"spectral": SPECTRAL}}
    trained = _train(tmp_path, "autoencoder", {**AUTOENCODER, "training": training}, audio)

    capsys.readouterr()
    assert main(["reconstruct", str(sounds), "--ckpt-path", str(trained), "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == 4

    latents = tmp_path / "latents"
    source = _json(tmp_path / "audio.json", audio)
    common = ["--ckpt-path", str(trained), "--num-workers", "0", "--device", "cpu"]
    assert main(["encode", source, "-o", str(latents), *common]) == 0
    stored = {"dataset_type": "pre_encoded", "datasets": [{"id": "z", "path": str(latents)}]}
    stored |= {"latent_crop_length": 100, "random_crop": True}
    diffusion = _train(tmp_path, "diffusion", _diffusion(trained), stored)

    model, _ = load_model(diffusion)
    assert isinstance(model, DiffusionModel)
    assert model.pretransform.scale == load_model(trained)[0].latent_scale  # type: ignore[union-attr]
    prompts = ["--prompt", "ramp 1", "--steps", "2", "--out", str(tmp_path / "sounds"), "--device", "cpu"]
    assert main(["generate", "--ckpt-path", str(diffusion), *prompts]) == 0
    (sound,) = (tmp_path / "sounds").rglob("*.wav")
    assert read_audio(sound)[0].shape == (1, 800)
