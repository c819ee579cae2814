"""Autoencoders, discriminators and what is trained along: split over processes, they train like one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from stable_audio.data.base import Batch
from stable_audio.training.base import TrainingModule
from stable_audio.training.diffusion.timed import TimedTraining
from tests import tiny
from tests.training.autoencoder import test_diffusion_autoencoder
from tests.training.autoencoder.test_autoencoder import DISCRIMINATOR
from tests.training.building import latent_config
from tests.training.processes.test_worlds import compare, options_of, train
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

BANDS = {
    "type": "dac",
    "config": {"in_channels": 2, "periods": [], "fft_sizes": [64]},
    "weights": {"adversarial": 0.1, "feature_matching": 5.0},
}
CODERS: dict[str, tuple[str, dict[str, Any] | None]] = {
    # coder: bottleneck, discriminator
    "oobleck": ("vae", DISCRIMINATOR),
    "dac": ("dac_rvq", None),
    "seanet": ("l2_norm", None),
    "taae": ("softnorm", None),
    "same": ("fsq", None),
    "convnext": ("tanh", BANDS),
}
NAMES = [*CODERS, "diffusion_autoencoder", "trained_along"]


def config_of(name: str) -> dict[str, Any]:
    """A tiny autoencoder whose losses are means over items, which alone are those of one process."""
    training = {"learning_rate": 1e-3, "ema": {"update_after_step": 2}}
    if name == "diffusion_autoencoder":
        return {**test_diffusion_autoencoder.tiny_config(), "training": training}
    if name == "trained_along":
        config = latent_config()
        config["model"]["pretransform"]["enable_grad"] = True
        config["training"] = training
        return config
    bottleneck, discriminator = CODERS[name]
    model = copy.deepcopy(tiny.PRETRANSFORMS["autoencoder"])
    # The level of softnorm's noise is that of each process.
    settings = {"dim": 4, "auto_scale": True} if bottleneck == "softnorm" else tiny.BOTTLENECKS[bottleneck]
    width = "dimension" if name == "seanet" else "latent_dim"
    channels = 8 if bottleneck == "vae" else 4
    model.update(
        encoder={"type": name, "config": {**tiny.ENCODERS[name], width: channels}},
        decoder={"type": name, "config": tiny.DECODERS[name]},
        bottleneck={"type": bottleneck, "config": settings},
    )
    losses: dict[str, Any] = {"time": {"weights": {"l1": 1.0}}}
    if discriminator is not None:
        losses["discriminator"] = discriminator
    return {
        "model_type": "autoencoder",
        "sample_size": 512,
        "sample_rate": 4000,
        "audio_channels": 2,
        "model": model,
        "training": {**training, "use_ema": True, "loss_configs": losses},
    }


def train_exactly(folder: Path, names: Sequence[str], strategy: str, options: dict[str, Any]) -> None:
    """Train in float64, losses and sound included, which the code computes in float32."""
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    levels = patch.object(TimedTraining, "note_levels", lambda *_: None)  # histograms in float32
    with levels, patch.object(TrainingModule, "transfer_batch_to_device", _in_double):
        train(folder, names, strategy, options, config_of)


def _in_double(self: TrainingModule, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
    return batch._replace(audio=batch.audio.double())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process."""
    folder = tmp_path_factory.mktemp("coders")
    run_world(1, train_exactly, folder, NAMES, "one", {**options_of(1), "max_steps": 6})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "strategy", "more"),
    [(2, "ddp", {}), (2, "fsdp", {}), (4, "fsdp", {}), (4, "hsdp", {"shard_size": 2})],
)
def test_every_coder_trains_like_one_process(
    alone: Path, processes: int, strategy: str, more: dict[str, Any]
) -> None:
    label = f"{strategy}{processes}"
    options = {**options_of(processes, strategy=strategy, **more), "max_steps": 6}
    run_world(processes, train_exactly, alone, NAMES, label, options)
    for name in NAMES:
        compare(alone, name, label)
