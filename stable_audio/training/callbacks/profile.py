"""Record some steps of a run in full: a trace, and a page about what costs most and what would help."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.profiler import ProfilerActivity, profile

from stable_audio.audio.atomic import atomic_write
from stable_audio.conditioning.multi import MultiConditioner
from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.callbacks.scalars import LogScalars
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.write_failure import write_failure
from stable_audio.training.speed.advice import ProfileFacts
from stable_audio.training.speed.kinds import Cost, by_kind
from stable_audio.training.speed.page import page
from stable_audio.wording import plural

log = logging.getLogger(__name__)

FIRST = 3
"""Steps before the recorded ones, which set up threads, kernels and data."""

TRACE, PAGE = "profile/trace.json", "profile/summary.txt"


NEXT_TO_NOTHING = 2**20
"""Bytes that a disk may have left when it counts as full."""


class Profile(StepCallback):
    """Records `steps` steps of the first process after the first few, and writes what they were into the
    folder of the run. It acts while the clock of LogScalars rests, so that writing counts for no step.

    Args:
        scalars: the log lines, for the parts of a step.
        options: of the run.
        steps: how many steps to record.
    """

    def __init__(self, scalars: LogScalars, options: RunOptions, *, steps: int) -> None:
        super().__init__()
        self._scalars, self._options, self._steps = scalars, options, steps
        self._taken = 0
        self._profiler: profile | None = None
        self._began = 0.0
        self._columns: dict[str, float] = {}
        self._is_done = False

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        if self._is_done or not trainer.is_global_zero:
            return
        self._taken += 1
        if self._taken == FIRST:
            self._columns = dict(self._scalars.latest)  # of a step that nothing slows down
            self._start(trainer.strategy.root_device)
        elif self._taken == FIRST + self._steps:
            self._end(trainer, module, self._steps)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._is_done or not trainer.is_global_zero:
            return
        if self._taken > FIRST:
            self._end(trainer, pl_module, self._taken - FIRST)
        else:
            self._stop()
            log.warning(
                "--profile: nothing was recorded, since the run ended after %s, and the first %d are "
                "left out",
                plural(self._taken, "step"),
                FIRST,
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()

    def _start(self, device: torch.device) -> None:
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            activities.append(ProfilerActivity.CUDA)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
        self._profiler = profile(activities=activities)
        self._profiler.start()
        self._began = time.perf_counter()

    def _stop(self) -> profile | None:
        profiler, self._profiler, self._is_done = self._profiler, None, True
        if profiler is not None:
            profiler.stop()
        return profiler

    def _end(self, trainer: pl.Trainer, module: TrainingModule, steps: int) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - self._began
        profiler = self._stop()
        assert profiler is not None
        costs = costs_of(profiler, on_gpu=device.type == "cuda")
        facts = self._facts(trainer, module, costs, seconds)
        text = page(facts, costs, steps=steps, trace=TRACE)
        self._write(profiler, text)
        for line in text.splitlines():
            log.info("%s", line)

    def _facts(
        self, trainer: pl.Trainer, module: TrainingModule, costs: list[Cost], seconds: float
    ) -> ProfileFacts:
        total = max(sum(cost.seconds for cost in costs), 1e-9)
        on_gpu = trainer.strategy.root_device.type == "cuda"
        nominal = self._scalars.nominal
        return ProfileFacts(
            columns=self._columns or self._scalars.latest,
            kinds={cost.name: cost.seconds / total for cost in by_kind(costs)},
            device=trainer.strategy.root_device.type,
            busy=min(1.0, total / max(seconds, 1e-9)) if on_gpu else 1.0,
            precision=str(trainer.precision),
            compiled=self._options.compile,
            checkpointing=_checkpoints(module),
            encodes=bool(getattr(module, "encodes_sound", False)),
            reads_texts=_reads_texts(module),
            averages=module.ema is not None,
            batch_size=self._options.batch_size,
            operations=None if nominal is None else nominal.operations,
        )

    def _write(self, profiler: profile, text: str) -> None:
        folder = Path(self._options.folder)
        try:  # the page first, which is small and says most
            with atomic_write(folder / PAGE) as temporary:
                temporary.write_text(text, encoding="utf-8")
            write_trace(profiler, folder / TRACE)
        except (OSError, RuntimeError) as error:  # a profile must not end a run
            reason = write_failure(error, folder)
            log.warning("%s: not written (%s); training continues", folder / TRACE, reason)


def write_trace(profiler: profile, path: Path) -> None:
    """Write the trace of a profiler, or leave nothing of it.

    The profiler tells no failure: what did not fit the disk stays under a temporary name of its own.

    Raises:
        OSError: it is not whole.
    """
    with atomic_write(path) as temporary:
        part = temporary.with_name(f"{temporary.name}.tmp")
        try:
            profiler.export_chrome_trace(str(temporary))
            if not temporary.is_file():
                full = shutil.disk_usage(path.parent).free < NEXT_TO_NOTHING
                reason = "the profiler could not write all of it, as where files have a limit (ulimit -f)"
                raise OSError(errno.ENOSPC, reason) if full else OSError(reason)
        finally:
            part.unlink(missing_ok=True)


def costs_of(profiler: profile, *, on_gpu: bool) -> list[Cost]:
    """Own time of every operation: of the kernels that it starts on a GPU, else of the host."""
    costs = []
    for event in profiler.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:  # kernels, which their operations count
            continue
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if microseconds > 0:
            costs.append(Cost(event.key, microseconds / 1e6, event.count))
    return costs


def _reads_texts(module: TrainingModule) -> bool:
    """Whether `cache_text` would spare the model a text encoder."""
    conditioner = getattr(module.model, "conditioner", None)
    return isinstance(conditioner, MultiConditioner) and bool(conditioner.uncached_texts())


def _checkpoints(module: TrainingModule) -> bool:
    return any(bool(getattr(part, "gradient_checkpointing", False)) for part in module.modules())
