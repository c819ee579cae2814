"""Training of diffusion autoencoders: whole runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints import load_model
from stable_audio.model import DiffusionAutoencoder
from tests import tiny
from tests.training.building import tiny_run
from tests.training.test_resume import assert_same_checkpoint


def tiny_config(**training: Any) -> dict[str, Any]:
    backbone = {
        "io_channels": 2,
        "cond_dim": 4,
        "depth": 2,
        "n_attn_layers": 0,
        "channels": [8, 8],
        "strides": [2],
        "kernel_size": 3,
    }
    return {
        "model_type": "diffusion_autoencoder",
        "sample_size": 512,
        "sample_rate": 4000,
        "audio_channels": 2,
        "model": {
            "encoder": {"type": "oobleck", "config": tiny.ENCODERS["oobleck"]},
            "diffusion": {"type": "DAU1d", "config": backbone},
            "bottleneck": {"type": "tanh"},
            "latent_dim": 4,
            "downsampling_ratio": 8,
            "io_channels": 2,
        },
        "training": {"learning_rate": 3e-3, **training},
    }


def _losses(folder: Path) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("reconstruction", [False, True])
def test_it_learns_shows_and_saves(tmp_path: Path, reconstruction: bool) -> None:
    demo = {"demo_every": 30, "max_demos": 1, "demo_steps": 3}
    config = tiny_config(use_reconstruction_loss=reconstruction, demo=demo)
    run = tiny_run(tmp_path, config, max_steps=60, batch_size=4)
    assert run.start() == 0
    losses = _losses(tmp_path / "run")
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    written = {p.name for p in (tmp_path / "run" / "demos" / "step_00000030").glob("*.wav")}
    assert written == {"clip_000_original.wav", "clip_000_reconstruction.wav"}
    model, _ = load_model(tmp_path / "run")
    assert isinstance(model, DiffusionAutoencoder)
    assert model.encode(torch.zeros(1, 2, 512)).shape == (1, 4, 64)


def test_continued_run_is_bit_identical(tmp_path: Path) -> None:
    tiny_run(tmp_path, tiny_config(), name="whole", max_steps=5).start()
    tiny_run(tmp_path, tiny_config(), name="parts", max_steps=2).start()
    last = str(tmp_path / "parts" / "last.ckpt")
    tiny_run(tmp_path, tiny_config(), name="parts", max_steps=5, ckpt_path=last).start()
    assert_same_checkpoint(tmp_path / "whole" / "last.ckpt", tmp_path / "parts" / "last.ckpt")
