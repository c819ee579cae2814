"""Training with all trained weights in bfloat16: what encodes sound, or judges it, stays in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.checkpoints import load_model
from stable_audio.data.base import Batch
from tests import tiny
from tests.training.autoencoder.test_autoencoder import tiny_config as tiny_autoencoder
from tests.training.building import tiny_config, tiny_run
from tests.training.starting.test_adapter_settings import model_of

LOW: dict[str, Any] = {"precision": "bf16-true", "demos": False, "max_steps": 1}


def latent_config(kind: str, **pretransform: Any) -> dict[str, Any]:
    """The tiny model on latents of an autoencoder with coders of a kind."""
    config = tiny_config()
    config["audio_channels"] = 2
    config["model"]["io_channels"] = config["model"]["diffusion"]["config"]["io_channels"] = 4
    coders = {
        part: {"type": kind, "config": coders[kind]}
        for part, coders in (("encoder", tiny.ENCODERS), ("decoder", tiny.DECODERS))
    }
    section = {**coders, "latent_dim": 4, "downsampling_ratio": 8, "io_channels": 2}
    config["model"]["pretransform"] = {"type": "autoencoder", "config": section, **pretransform}
    return config


def seen_in_a_step(folder: Path, config: dict[str, Any]) -> tuple[Any, Batch, Tensor]:
    """A run after a step of it, with the batch and the latents of that step."""
    run = tiny_run(folder, config, allow_untrained_pretransform=True, **LOW)
    batches: list[Batch] = []
    latents: list[Tensor] = []
    step, encode = run.module.training_step, run.module.latents  # type: ignore[attr-defined]
    run.module.training_step = lambda batch, *rest: batches.append(batch) or step(batch, *rest)  # type: ignore
    run.module.latents = lambda *a: latents.append(encode(*a)) or latents[-1]  # type: ignore[attr-defined]
    assert run.start() == 0
    return run, batches[0], latents[0]


@pytest.mark.parametrize("kind", ["oobleck", "taae", "same", "seanet", "convnext"])
def test_a_frozen_autoencoder_encodes_whole_sound_in_float32(tmp_path: Path, kind: str) -> None:
    run, batch, latents = seen_in_a_step(tmp_path, latent_config(kind))
    model = run.module.model
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.pretransform.parameters()} == {torch.float32}
    assert batch.audio.dtype == torch.float32
    assert not torch.equal(batch.audio.bfloat16().float(), batch.audio), "the sound was rounded"
    torch.testing.assert_close(latents, model.pretransform.encode(batch.audio, noise=torch.zeros_like))


def test_a_halved_autoencoder_and_a_trained_one(tmp_path: Path) -> None:
    run, batch, latents = seen_in_a_step(tmp_path / "half", latent_config("oobleck", model_half=True))
    assert {p.dtype for p in run.module.model.pretransform.parameters()} == {torch.float16}
    assert latents.dtype == batch.audio.dtype == torch.float32
    run, batch, latents = seen_in_a_step(tmp_path / "grad", latent_config("oobleck", enable_grad=True))
    assert {p.dtype for p in run.module.model.pretransform.parameters()} == {torch.bfloat16}
    assert latents.requires_grad


@pytest.mark.parametrize("name", ["DAU1d", "adp_cfg_1d", "adp_1d", "unet"])
def test_every_backbone_takes_latents_in_float32(tmp_path: Path, name: str) -> None:
    config = {**model_of(name), "training": {"learning_rate": 1e-3}}
    assert tiny_run(tmp_path, config, **LOW).start() == 0
    assert load_model(tmp_path / "run")


def test_discriminators_judge_in_float32(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, tiny_autoencoder(), **{**LOW, "max_steps": 2})
    assert run.start() == 0
    module: Any = run.module
    assert {p.dtype for p in module.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in module.discriminator.parameters()} == {torch.float32}
