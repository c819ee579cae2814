"""The batch that fits the memory of the device, and the time of a step."""

from __future__ import annotations

import gc
import math
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.data.world import ALONE
from stable_audio.inference.memory.reserve import memory_of, readable_size
from stable_audio.nn.checkpointing import ELEMENTWISE, Recomputation
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.errors import TrainingError
from stable_audio.training.lightning_trainer import quiet_lightning
from stable_audio.training.memory_plan.answer import tightened
from stable_audio.training.memory_plan.plan import TrainingPlan, plan_training
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import assemble

USABLE_SHARE = 0.9
"""Of the free memory, what a plan may take."""

PROBE_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class MemoryLayout:
    """How a step uses memory, besides the number of clips.

    Attributes:
        gradient_checkpointing: what is computed again in the backward pass.
        base_precision: what the model under an adapter is held in; None: as it is.
    """

    gradient_checkpointing: Recomputation = False
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
        for checkpointing in (False, ELEMENTWISE, True)
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


class DoesNotFit(TrainingError):
    """One clip does not fit the device; the message says what takes how much.

    Args:
        plan: of that clip, with the memory that can be used.
        config: the model file that was planned.
    """

    def __init__(self, plan: TrainingPlan, config: ModelConfig) -> None:
        assert plan.device_bytes is not None
        super().__init__(
            f"one clip needs {readable_size(plan.total)} ({plan.in_words()}), but only "
            f"{readable_size(plan.device_bytes)} of the device's memory can be used"
        )
        self.plan, self.config = plan, config


def free_bytes(device: torch.device) -> float:
    """Free memory of a device, of a CPU that of the machine."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):  # another system than Linux tells all it has
        return float(memory_of("cpu") or math.inf)


def fit(
    config_for: Callable[[int, MemoryLayout], ModelConfig],
    batch: int,
    choices: Sequence[MemoryLayout],
    *,
    available: float,
    device: str = "cpu",
    precision: str = "auto",
) -> Fit:
    """The largest batch that fits, in the first layout in which one clip fits, by the plan of memory.

    Args:
        config_for: (clips in memory, layout) -> the model file.
        batch: clips per optimizer step.
        choices: layouts, see `layouts`.
        available: bytes of the device.
        device: its type.
        precision: of training.

    Raises:
        DoesNotFit: not even one clip does.
    """
    kind = "cuda" if device == "cuda" else "cpu"
    usable = int(USABLE_SHARE * available)

    def planned(layout: MemoryLayout, micro: int) -> TrainingPlan:
        options = RunOptions(batch_size=micro, accum_batches=batch // micro, precision=precision)
        config = config_for(micro, layout)
        read = config.training.cache_text is not None  # `command` reads all texts first
        return plan_training(config, options, device=kind, device_bytes=usable, search=False, texts_read=read)

    for layout in choices:
        found = _largest(batch, partial(planned, layout))
        if found is not None:
            micro, plan = found
            return Fit(micro, batch // micro, layout, plan.parts, available)
    raise DoesNotFit(planned(choices[-1], 1), config_for(1, choices[-1]))


def does_not_fit_after_all(config: ModelConfig, options: RunOptions, *, device: str) -> DoesNotFit:
    """The error for one clip that fits by the plan, but whose trial ran out of memory."""
    kind = "cuda" if device == "cuda" else "cpu"
    read = config.training.cache_text is not None
    plan = plan_training(config, options, device=kind, search=False, texts_read=read)
    return DoesNotFit(tightened(plan), config)


def _largest(batch: int, plan_of: Callable[[int], TrainingPlan]) -> tuple[int, TrainingPlan] | None:
    """The largest divisor of `batch` that fits, and its plan; None if not even one clip does."""
    plans: dict[int, TrainingPlan] = {}

    def is_too_much(micro: int) -> bool:
        plans[micro] = plan_of(micro)
        return not plans[micro].fits

    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    count = bisect_left(divisors, True, key=is_too_much)
    return None if count == 0 else (divisors[count - 1], plans[divisors[count - 1]])


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
