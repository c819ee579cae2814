"""Rehearse a run: one step, one demo, one save and one reload, to find its mistakes before it starts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.adapters import Adapter, read_adapter
from stable_audio.adapters.files import trained_layers
from stable_audio.checkpoints import export, load_model
from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.config.reading.sources import Source
from stable_audio.data.world import ALONE
from stable_audio.factory import create_model_from_config
from stable_audio.training.autoencoder.module import AutoencoderTraining
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.stopping import Interrupted
from stable_audio.training.speed.columns import peak_memory
from stable_audio.training.trainer import Run, assemble
from stable_audio.training.transforms import trained_adapter, transforms_for

DEMO_STEPS = 2
ANY_STEPS = 1000
"""Length of the run for LR schedules that follow it, if the config does not give one."""
AUTOENCODER_STEPS = 2


def rehearse(
    config: ModelConfig,
    dataset: DatasetConfig | Source,
    *,
    batch_size: int = 1,
    accelerator: str = "auto",
) -> dict[str, Any]:
    """Train one step of a config on a dataset, in a temporary folder that is removed afterwards.

    The demo renders every prompt of the config with two sampling steps. A learned pretransform has random
    weights here. An autoencoder takes two steps, one of each network, without a warm-up before them.

    Returns:
        seconds per part, the loss, peak memory in bytes.

    Raises:
        TrainingError, CheckpointError, DataError and errors of the parts: why a run would fail.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        began = time.perf_counter()
        steps = AUTOENCODER_STEPS if config.model_type == "autoencoder" else 1
        options = _options(Path(folder), batch_size, accelerator, steps)
        options = _with_base(config, options)
        run = assemble(config, dataset, options, world=ALONE)
        built_at = time.perf_counter()
        run.module.run_steps = config.training.max_steps or ANY_STEPS
        _skip_warm_up(run)
        _prepare_demo(run)
        if status := run.start():
            raise Interrupted(status - 128)
        trained_at = time.perf_counter()
        if run.demos is not None and run.demos.failure is not None:
            raise TrainingError(f"the demo fails: {run.demos.failure}")
        loss = run.scalars.latest["train/loss"]
        _reload(run)
        return {
            "batch_size": batch_size,
            "loss": round(loss, 6),
            "build_seconds": round(built_at - began, 3),
            "step_seconds": round(1 / run.scalars.latest["speed/steps_per_second"], 3),
            "demo_seconds": round(run.demos.seconds, 3) if run.demos is not None else None,
            "save_seconds": round(run.checkpoints.seconds, 3),
            "reload_seconds": round(time.perf_counter() - trained_at, 3),
            **_peak_memory(),
        }


def _options(folder: Path, batch_size: int, accelerator: str, steps: int) -> RunOptions:
    return RunOptions(
        name="rehearsal",
        save_dir=str(folder),
        batch_size=batch_size,
        num_workers=0,
        max_steps=steps,
        checkpoint_every=steps,
        log_every=steps,
        logger="none",
        accelerator=accelerator,
        devices="1",
        allow_untrained_pretransform=True,
        progress=False,
    )


def _with_base(config: ModelConfig, options: RunOptions) -> RunOptions:
    """An adapter needs the file of a model: one with random weights."""
    if trained_adapter(transforms_for(config, options)) is None:
        return options
    path = Path(options.save_dir) / "base.safetensors"
    torch.manual_seed(options.seed)
    export(create_model_from_config(config), path, config=config.as_dict())
    return replace(options, pretrained_ckpt_path=str(path))


def _skip_warm_up(run: Run) -> None:
    if isinstance(run.module, AutoencoderTraining):
        run.module.warmup_steps = 0


def _prepare_demo(run: Run) -> None:
    if run.demos is None:
        return
    run.demos.every = run.options.max_steps
    run.demos.renderer.shorten(DEMO_STEPS)


def _reload(run: Run) -> None:
    """Load the inference file and compare its weights with those of the run."""
    path, expected = run.options.folder / "last.safetensors", run.module.inference_tensors()
    model, _ = load_model(path)
    if run.module.saved.adapter is None:
        reloaded: Mapping[str, Tensor] = model.state_dict()
    else:  # the file has its tensors in 16 bits
        reloaded = read_adapter(path).tensors()
        layers = trained_layers(expected)
        expected = Adapter(run.module.saved.adapter, layers).tensors()
        expected = {k: v.half().float() for k, v in expected.items()}
    wrong = [k for k, v in expected.items() if not torch.equal(reloaded[k], v.cpu())]
    if wrong:
        raise TrainingError(f"the saved weights change when they are loaded: {', '.join(wrong[:5])}")


def _peak_memory() -> dict[str, int]:
    peaks = {"peak_memory_bytes": peak_memory(torch.device("cpu"))}
    if torch.cuda.is_available():
        peaks["peak_device_memory_bytes"] = peak_memory(torch.device("cuda"))
    return peaks
