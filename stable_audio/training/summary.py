"""A few lines at the start of a run, and at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from stable_audio.config import ModelConfig
from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel
from stable_audio.training.activations import activation_bytes
from stable_audio.training.base import TrainingModule
from stable_audio.training.feed import RunData
from stable_audio.training.options import RunOptions

log = logging.getLogger(__name__)


class Summary(pl.Callback):
    """Logs a summary of the run before its first step.

    Args:
        config: the model file.
        options: options of the run.
        data: the training data.
        row: samples per item of a batch, which differ from the config's sample_size if clips are packed.
    """

    def __init__(self, config: ModelConfig, options: RunOptions, data: RunData, *, row: int) -> None:
        self.config, self.options, self.data, self.row = config, options, data, row

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            for line in start_lines(trainer, pl_module, self.options, self.data, self._activations(trainer)):
                log.info("%s", line)

    def _activations(self, trainer: pl.Trainer) -> float | None:
        clips = self.options.batch_size * self.row / self.config.sample_size
        each = planned_activations(self.config)
        return None if each is None else clips * each * (1.0 if "32" in str(trainer.precision) else 0.5)


def planned_activations(config: ModelConfig) -> int | None:
    """Bytes of the float32 activations that the backbone keeps per clip, counted on shapes; None if they
    cannot be counted, and for autoencoders."""
    try:
        model = create_model_from_config(config, device="meta")
        if not isinstance(model, DiffusionModel):
            return None
        if config.training is not None and config.training.gradient_checkpointing:
            model.backbone.enable_gradient_checkpointing(config.training.gradient_checkpointing)
        return activation_bytes(model)
    except Exception as error:  # a missing estimate must not end a run
        log.debug("activations were not counted: %s", error)
        return None


def start_lines(
    trainer: pl.Trainer,
    module: TrainingModule,
    options: RunOptions,
    data: RunData,
    activations: float | None = None,
) -> Iterator[str]:
    """Lines about folder, devices, precision, parameters, memory, data and length of a run."""
    yield f"folder       {options.folder}"
    count, device = trainer.world_size, trainer.strategy.root_device
    yield f"devices      {count} x {device.type}, precision {trainer.precision}"
    total = sum(p.numel() for p in module.model.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    yield f"parameters   {total:,}, of which {trained:,} are trained"
    static_memory = _size(_static_bytes(module))
    on_top = "activations on top"
    if activations is not None:
        on_top = (
            f"about {_size(activations)} more for the backbone's activations at batch {options.batch_size}"
        )
    yield f"memory       {static_memory} per process: weights, gradients, optimizer, average; {on_top}"
    if data.timed is not None:
        loader = data.timed.loader
        steps = loader.batches_per_epoch / options.accum_batches
        clips = options.batch_size * options.accum_batches * count
        yield f"data         {len(loader.dataset):,} items, {clips} per step, {steps:,.6g} steps per epoch"
        ignored = sorted(loader.dataset.ignored.items(), key=lambda item: (-item[1], item[0]))
        if ignored:
            ignored_files = ", ".join(f"{suffix} ({count})" for suffix, count in ignored)
            yield f"             files that are not read: {ignored_files}"
    last = f"{options.max_steps:,}" if options.max_steps > 0 else "no end"
    yield f"steps        from {trainer.global_step:,} to {last}"


def end_lines(folder: Path, step: int, *, model_type: str, stopped: bool, prompts: bool) -> Iterator[str]:
    """Lines about the files of a finished run, and the commands that use them."""
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
        yield "next: the same command with --recover continues from here"
    weights = folder / "last.safetensors"
    if weights.is_file():
        yield f"next: {_next_command(weights, model_type, prompts=prompts)}"


def _next_command(weights: Path, model_type: str, *, prompts: bool) -> str:
    if "autoencoder" in model_type:
        return f"stable-audio reconstruct FOLDER_OF_SOUNDS --ckpt-path {weights}"
    return f"stable-audio generate --ckpt-path {weights}" + (' --prompt "..."' if prompts else "")


def _static_bytes(module: TrainingModule) -> int:
    """Bytes of weights, gradients, average, and two optimizer states per trained weight, as Adam has them."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    average = [] if module.ema is None else module.ema.average.values()
    beside = [v for v in average if v.device == module.device]  # not in the memory of the host instead
    return weights + 3 * trained + sum(v.numel() * v.element_size() for v in beside)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
