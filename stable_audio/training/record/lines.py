"""A few lines at the start of a run, and at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import torch

from stable_audio.checkpoints.steps import step_in
from stable_audio.config import ModelConfig
from stable_audio.inference.memory.reserve import readable_size
from stable_audio.inference.rates import peak_rate
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.devices.float8 import without_float8
from stable_audio.training.memory_plan import Planner, TrainingPlan, choice_of, precision_on
from stable_audio.training.memory_plan.processes import Sharing
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.recovery import newest_first
from stable_audio.training.speed.columns import Nominal
from stable_audio.wording import plural

log = logging.getLogger(__name__)


def planned(
    config: ModelConfig,
    options: RunOptions,
    *,
    precision: str,
    device: str,
    row: int,
    sharing: Sharing = Sharing(),  # noqa: B008 (frozen)
) -> TrainingPlan | None:
    """The plan of a run's memory; None if its steps cannot be followed on shapes.

    Args:
        precision: of the run.
        device: type of its device.
        row: samples per item of a batch.
        sharing: the processes of the run, of which one is planned.
    """
    try:
        planner = Planner(config, device=device, sample_size=row)
        meant = precision_on(device, precision)
        return planner.plan(choice_of(config, options, precision=meant, sharing=sharing))
    except Exception as error:  # a missing estimate must not end a run
        log.debug("memory was not planned", exc_info=error)
        return None


def nominal(plan: TrainingPlan, device: torch.device) -> Nominal | None:
    """The operations of a plan beside the peak of a device; None where there is no peak to measure."""
    dtype = PRODUCTS.get(without_float8(plan.choice.precision), torch.float32)
    try:
        return Nominal(plan.operations, peak_rate(device, dtype))
    except RuntimeError as error:  # a missing figure must not end a run
        log.debug("the peak of %s was not measured", device, exc_info=error)
        return None


PRODUCTS = {
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
    "64-true": torch.float64,
}
"""Precision -> the type of matrix products, where that is not float32."""


def start_lines(
    trainer: pl.Trainer,
    module: TrainingModule,
    options: RunOptions,
    data: RunData,
    plan: TrainingPlan | None = None,
    *,
    nominal: Nominal | None = None,
) -> Iterator[str]:
    """Lines about folder, devices, precision, parameters, memory, data and length of a run."""
    yield f"folder       {options.folder}"
    count, device = trainer.world_size, trainer.strategy.root_device
    yield f"devices      {count} x {device.type}, precision {trainer.precision}"
    total = sum(p.numel() for p in module.model.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    yield f"parameters   {total:,}, of which {trained:,} are trained"
    if plan is not None:
        batch = f"{plural(options.batch_size, 'clip')} per batch"
        yield f"memory       about {readable_size(plan.total)} per process at {batch}: {plan.in_words()}"
    if nominal is not None:
        done = nominal.operations
        yield (
            f"operations   {done.model / 1e9:,.4g} GFLOP per batch and process ({done.in_words()}); products "
            f"reach {nominal.peak / 1e12:.3g} TFLOP/s here"
        )
    if data.timed is not None:
        loader = data.timed.loader
        steps = loader.batches_per_epoch / options.accum_batches
        clips = options.batch_size * options.accum_batches * count
        items = plural(len(loader.dataset), "item", form=",")
        yield f"data         {items}, {clips} per step, {steps:,.6g} steps per epoch"
        ignored = sorted(loader.dataset.ignored.items(), key=lambda item: (-item[1], item[0]))
        if ignored:
            ignored_files = ", ".join(f"{suffix} ({count})" for suffix, count in ignored)
            yield f"             files that are not read: {ignored_files}"
    last = f"{options.max_steps:,}" if options.max_steps > 0 else "no end"
    yield f"steps        from {trainer.global_step:,} to {last}"


def end_lines(folder: Path, step: int, *, model_type: str, stopped: bool, prompts: bool) -> Iterator[str]:
    """Lines about the files of a finished run, and the commands that use them.

    Of a file that is older than the run, as after a checkpoint that was not written, the step is said.
    """
    listed = {
        "last.safetensors": "for generation",
        "best.safetensors": "best in validation",
        "last.ckpt": "to continue",
        "metrics.csv": "curves",
        "demos/index.html": "demos",
        "run.html": "what happened",
    }
    yield f"step {step:,} reached; written to {folder}:"
    for name, use in listed.items():
        if (folder / name).is_file():
            size = readable_size((folder / name).stat().st_size)
            yield f"  {name:<18}{size:>9}  {use}{_older(folder / name, step)}"
    newest = next(((at, path) for at, path in newest_first(folder, math.inf) if at < math.inf), None)
    if newest is not None and newest[1].is_dir():  # in parts
        at = "" if newest[0] == step else f"; of step {newest[0]:,.0f}"
        yield f"  {newest[1].relative_to(folder)}, a folder, to continue{at}"
    if stopped and newest is not None:
        here = "here" if newest[0] == step else f"step {newest[0]:,.0f}"
        yield f"next: the same command with --recover continues from {here}"
    weights = folder / "last.safetensors"
    if weights.is_file():
        yield f"next: {_next_command(weights, model_type, prompts=prompts)}"


def _older(path: Path, step: int) -> str:
    """Of which step a file is, in words, if it should be of `step` and is not."""
    if path.name not in ("last.ckpt", "last.safetensors"):
        return ""
    at = step_in(path)
    if at == math.inf:
        return "; it cannot be read"
    return "" if at == step else f"; of step {at:,.0f}"


def _next_command(weights: Path, model_type: str, *, prompts: bool) -> str:
    if "autoencoder" in model_type:
        return f"stable-audio reconstruct FOLDER_OF_SOUNDS --ckpt-path {weights}"
    return f"stable-audio generate --ckpt-path {weights}" + (' --prompt "..."' if prompts else "")
