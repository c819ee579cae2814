"""A few lines at the start of a run, and at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from stable_audio.training.base import TrainingModule
from stable_audio.training.feed import RunData
from stable_audio.training.options import RunOptions

log = logging.getLogger(__name__)


class Summary(pl.Callback):
    """Logs what is about to be trained, once the data is there."""

    def __init__(self, options: RunOptions, data: RunData) -> None:
        self.options, self.data = options, data

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            for line in start_lines(trainer, pl_module, self.options, self.data):
                log.info("%s", line)


def start_lines(
    trainer: pl.Trainer, module: TrainingModule, options: RunOptions, data: RunData
) -> Iterator[str]:
    """Folder, devices, precision, parameters, memory, data, length."""
    yield f"folder       {options.folder}"
    count, device = trainer.world_size, trainer.strategy.root_device
    yield f"devices      {count} x {device.type}, precision {trainer.precision}"
    total = sum(p.numel() for p in module.model.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    yield f"parameters   {total:,}, of which {trained:,} are trained"
    planned = _size(_planned_bytes(module))
    yield f"memory       {planned} per process: weights, gradients, optimizer, average; activations on top"
    if data.timed is not None:
        loader = data.timed.loader
        steps = loader.batches_per_epoch / options.accum_batches
        clips = options.batch_size * options.accum_batches * count
        yield f"data         {len(loader.dataset):,} items, {clips} per step, {steps:,.6g} steps per epoch"
    last = f"{options.max_steps:,}" if options.max_steps > 0 else "no end"
    yield f"steps        from {trainer.global_step:,} to {last}"


def end_lines(folder: Path, step: int, *, model_type: str, stopped: bool, prompts: bool) -> Iterator[str]:
    """What was written, and what to do with it."""
    listed = {
        "last.safetensors": "for generation",
        "best.safetensors": "best in validation",
        "last.ckpt": "to continue",
        "metrics.csv": "curves",
        "demos/index.html": "demos",
    }
    yield f"step {step:,} reached; written to {folder}:"
    for name, use in listed.items():
        if (folder / name).is_file():
            yield f"  {name:<18}{_size((folder / name).stat().st_size):>9}  {use}"
    if stopped:
        yield "next: the same command with --recover goes on from here"
    weights = folder / "last.safetensors"
    if weights.is_file():
        yield f"next: {_next_command(weights, model_type, prompts=prompts)}"


def _next_command(weights: Path, model_type: str, *, prompts: bool) -> str:
    if "autoencoder" in model_type:
        return f"stable-audio reconstruct FOLDER_OF_SOUNDS --ckpt-path {weights}"
    return f"stable-audio generate --ckpt-path {weights}" + (' --prompt "..."' if prompts else "")


def _planned_bytes(module: TrainingModule) -> int:
    """Two states per trained weight, as Adam has them. Activations come on top."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    average = [] if module.ema is None else module.ema.average.values()
    return weights + 3 * trained + sum(v.numel() * v.element_size() for v in average)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
