"""What every registered method of training promises, on the smallest model of its type."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.training.errors import TrainingError
from stable_audio.training.methods import METHODS
from tests import tiny
from tests.training.building import tiny_config, tiny_run

METHOD_NAMES = [f"{kind}-{method}" for kind, method in METHODS]


def _model(kind: str) -> dict[str, Any]:
    """A model file of each type, without `training`."""
    config = {**tiny_config(), "model_type": kind}
    del config["training"]
    diffusion = config["model"]["diffusion"]
    if kind == "diffusion_cond_inpaint":
        diffusion["config"]["input_concat_dim"] = 33
        diffusion["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    elif kind == "diffusion_uncond":
        plain = {
            "in_channels": 32,
            **{k: diffusion["config"][k] for k in ("embed_dim", "depth", "num_heads")},
        }
        backbone = {"type": "dit", "diffusion_objective": "rectified_flow", "config": plain}
        config["model"] = {"diffusion": backbone, "pretransform": config["model"]["pretransform"]}
    elif kind == "autoencoder":
        config = {**config, "audio_channels": 2, "model": tiny.PRETRANSFORMS["autoencoder"]}
    elif kind == "diffusion_autoencoder":
        config["audio_channels"] = 2
        config["model"] = {
            "diffusion": {"type": "DAU1d", "config": {**tiny.BACKBONES["DAU1d"], "cond_dim": 4}},
            "encoder": {"type": "oobleck", "config": tiny.ENCODERS["oobleck"]},
            "latent_dim": 4,
            "downsampling_ratio": 8,
            "io_channels": 2,
        }
        config["model"]["diffusion"]["config"].pop("global_cond_dim")
    return config


def _config(kind: str, method: str, folder: Path) -> dict[str, Any]:
    section = dict(tiny.METHODS[kind, method])
    rate = {"learning_rate": 1e-3}
    if section.pop("teacher", False):
        plain = next(m for k, m in METHODS if k == kind)
        config = {**_model(kind), "training": {**rate, **tiny.METHODS[kind, plain]}}
        assert tiny_run(folder, config, name="teacher", max_steps=1).start() == 0
        section["teacher_model_ckpt"] = str(folder / "teacher" / "last.safetensors")
    return {**_model(kind), "training": {**rate, "method": method, "use_ema": True, **section}}


def test_every_method_has_an_entry() -> None:
    assert list(tiny.METHODS) == list(METHODS)


@pytest.mark.parametrize(("kind", "method"), METHODS, ids=METHOD_NAMES)
def test_a_run_continues_exactly(kind: str, method: str, tmp_path: Path) -> None:
    config = _config(kind, method, tmp_path)
    whole = tiny_run(tmp_path, config, name="whole", max_steps=3, gradient_clip_val=0.1, log_every=1)
    start = {k: v.clone() for k, v in whole.module.state_dict().items()}
    assert whole.start() == 0
    assert tiny_run(tmp_path, config, name="part", max_steps=2, gradient_clip_val=0.1).start() == 0
    again = tiny_run(tmp_path, config, name="part", max_steps=3, gradient_clip_val=0.1, recover=True)
    assert again.start() == 0
    expected, averaged = whole.module.state_dict(), whole.module.ema.average
    assert any(not torch.equal(v, start[k]) for k, v in expected.items())
    assert all(torch.equal(v, expected[k]) for k, v in again.module.state_dict().items())
    assert all(torch.equal(v, averaged[k]) for k, v in again.module.ema.average.items())
    stored = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["state_dict"]
    assert stored.keys() == start.keys()
    with open(tmp_path / "whole" / "metrics.csv", newline="") as file:
        assert float(next(csv.DictReader(file))["train/grad_norm"]) > 0


@pytest.mark.parametrize(("kind", "method"), METHODS, ids=METHOD_NAMES)
def test_a_loss_that_is_not_finite_ends_the_run(kind: str, method: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, _config(kind, method, tmp_path), max_steps=2)
    weights = run.module.networks()[0].module
    with torch.no_grad():
        next(p for p in weights.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(TrainingError, match="is not finite at step 1"):
        run.start()
