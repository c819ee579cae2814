"""The batch that fits the memory of the device, and the time of a step."""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.data.world import ALONE
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.check.footprint import planned_memory
from stable_audio.training.errors import TrainingError
from stable_audio.training.lightning_trainer import quiet_lightning
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import assemble

USABLE_SHARE = 0.9
"""Of the free memory, what a plan may take."""

PROBE_STEPS = 4

GB = 10**9


@dataclass(frozen=True, kw_only=True)
class MemoryLayout:
    """How a step uses memory, besides the number of clips.

    Attributes:
        gradient_checkpointing: whether activations are computed again in the backward pass.
        base_precision: what the model under an adapter is held in; None: as it is.
    """

    gradient_checkpointing: bool = False
    base_precision: str | None = None


def layouts(*, adapter: str | None, device: torch.device) -> list[MemoryLayout]:
    """The layouts to try, in the order of what they cost.

    On a GPU the model under an adapter is held in bfloat16, as in stable-audio-3's script; -xs types depend
    on the exact weights and keep them. On a CPU bfloat16 is slow, and comes last.
    """
    exact = adapter is None or adapter.endswith("-xs")
    precisions = [None] if exact else ["bf16"] if device.type == "cuda" else [None, "bf16"]
    return [
        MemoryLayout(gradient_checkpointing=checkpointing, base_precision=precision)
        for precision in precisions
        for checkpointing in (False, True)
    ]


@dataclass(frozen=True)
class Fit:
    """How a step is laid out.

    Attributes:
        micro_batch: clips in memory together.
        accumulation: batches per optimizer step.
        layout: how it uses memory besides.
        parts: bytes by part.
        available: bytes that the device has for it.
    """

    micro_batch: int
    accumulation: int
    layout: MemoryLayout
    parts: Mapping[str, int]
    available: float

    @property
    def total(self) -> int:
        """Bytes together."""
        return sum(self.parts.values())


def free_bytes(device: torch.device) -> float:
    """Free memory of a device, of a CPU that of the machine."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):  # another system than Linux tells all it has
        names = getattr(os, "sysconf_names", {})
        known = "SC_PHYS_PAGES" in names
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) if known else math.inf


def fit(
    config_for: Callable[[int, MemoryLayout], ModelConfig],
    batch: int,
    choices: Sequence[MemoryLayout],
    *,
    available: float,
    activation_share: float = 1.0,
) -> Fit:
    """The largest batch that fits, in the first layout in which one clip fits.

    Args:
        config_for: (clips in memory, layout) -> the model file.
        batch: clips per optimizer step.
        choices: layouts, see `layouts`.
        available: bytes of the device.
        activation_share: bytes of activations relative to float32.

    Raises:
        TrainingError: one clip does not fit; the message says what takes how much, and what would fit.
    """
    least: Fit | None = None
    for choice in choices:
        parts = _parts(config_for(1, choice))
        each = activation_share * parts.pop("activations", 0)
        fixed = sum(parts.values())
        room = USABLE_SHARE * available - fixed
        most = batch if each == 0 and room >= 0 else int(room // each) if each else 0
        micro = _divisor(batch, min(batch, max(1, most)))
        result = Fit(micro, batch // micro, choice, {**parts, "activations": round(micro * each)}, available)
        if most >= 1:
            return result
        least = result
    assert least is not None
    listed = ", ".join(f"{name} {size / GB:.2f}" for name, size in least.parts.items() if size)
    raise TrainingError(
        f"one clip needs {least.total / GB:.2f} GB ({listed}), but only {USABLE_SHARE * available / GB:.2f} "
        "of the device's memory can be used; " + _advice(least)
    )


def _advice(least: Fit) -> str:
    trained = least.parts.get("gradients", 0) + least.parts.get("optimizer", 0)
    if trained > 0.2 * least.total:
        return "an adapter (--adapter lora) needs no gradients and no optimizer of the model's own weights"
    return "shorter clips (--seconds) need less"


def _divisor(batch: int, most: int) -> int:
    return next(n for n in range(most, 0, -1) if batch % n == 0)


def _parts(config: ModelConfig) -> dict[str, int]:
    return dict(planned_memory(config, batch_size=1)["parts"])


class _StepTimes(StepCallback):
    """Notes when each optimizer step ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def after_step(self, trainer: pl.Trainer, module: Any, step: int) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def seconds_per_step(
    config: ModelConfig, dataset: DatasetConfig, options: RunOptions, *, steps: int = PROBE_STEPS
) -> float:
    """Train a few steps whose result is thrown away, and take the median after the first.

    Raises:
        torch.OutOfMemoryError: the batch does not fit after all.
        TrainingError, CheckpointError, DataError: why the run could not start.
    """
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        probe = replace(
            options,
            name="probe",
            save_dir=folder,
            max_steps=max(steps, options.max_steps),
            logger="none",
            demos=False,
            progress=False,
            recover=False,
            overwrite=False,
        )
        run = assemble(config, dataset, probe, world=ALONE)
        times = _StepTimes()
        # No checkpoint, no estimate, no summary: they belong to the run.
        own: list[Any] = run.trainer.callbacks  # type: ignore[attr-defined]
        own[:] = [*own[:2], times]
        run.trainer.fit_loop.epoch_loop.max_steps = steps
        with quiet_lightning():
            run.trainer.fit(run.module, datamodule=run.data)
        run.logger.close()
        del run
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    lengths = sorted(b - a for a, b in zip(times.ends, times.ends[1:]))
    if not lengths:
        raise TrainingError("no step of the trial was taken; is there a clip to train on?")
    return lengths[len(lengths) // 2]
