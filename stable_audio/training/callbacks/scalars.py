"""Log lines: loss, learning rate, gradient norm, throughput, share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.feed import RunData
from stable_audio.training.loggers import RunLogger
from stable_audio.training.window import SigmaBuckets


class LogScalars(StepCallback):
    """Every `every` steps, the means since the last line, over all processes.

    Attributes:
        latest: the last line, for the progress bar.

    Args:
        batch_seconds: seconds of audio that all processes together consume per optimizer step.
    """

    def __init__(self, logger: RunLogger, data: RunData, *, every: int, batch_seconds: float) -> None:
        super().__init__()
        self.logger, self.data = logger, data
        self.every, self.batch_seconds = every, batch_seconds
        self.latest: dict[str, float] = {}
        self._steps = 0
        self._began = self._left = self._waited = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._restart()

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self._steps += 1
        if step % self.every == 0:
            self._log(trainer, module, step)
        self._left = time.perf_counter()

    def back(self) -> None:
        """The callbacks after this one are done: their time is not training time."""
        self._began += time.perf_counter() - self._left

    def _log(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        values = mean_over_processes(trainer, module.window.means())
        values.update(self._rates(trainer))
        values.update(_loss_by_sigma(trainer, module))
        values.update(self._speed())
        self.latest = values
        self._restart()
        if trainer.is_global_zero:
            self.logger.scalars(values, step)

    def _rates(self, trainer: pl.Trainer) -> dict[str, float]:
        rates = [g["lr"] for o in trainer.optimizers for g in o.param_groups]
        if not rates:
            return {}
        return {"train/lr": float(rates[0]), **{f"train/lr_{i}": float(r) for i, r in enumerate(rates) if i}}

    def _speed(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return {
            "speed/steps_per_second": self._steps / seconds,
            "speed/audio_seconds_per_second": self._steps * self.batch_seconds / seconds,
            "speed/data_wait_share": min(1.0, (self.data.waited - self._waited) / seconds),
        }

    def _restart(self) -> None:
        self._steps = 0
        self._began, self._waited = time.perf_counter(), self.data.waited


class ResumeClock(StepCallback):
    """Comes last: demos, validation and checkpoints do not count as training time."""

    def __init__(self, scalars: LogScalars) -> None:
        super().__init__()
        self._scalars = scalars

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self._scalars.back()


def mean_over_processes(trainer: pl.Trainer, values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over all processes; every one must come with the same names, which keeps the order."""
    if not values:
        return {}
    stacked = torch.stack([v.float().reshape(()) for v in values.values()])
    if trainer.world_size > 1:
        stacked = trainer.strategy.reduce(stacked, reduce_op="mean")
    return dict(zip(values, stacked.tolist()))


def _loss_by_sigma(trainer: pl.Trainer, module: TrainingModule) -> dict[str, float]:
    totals = module.buckets.pop()
    if totals is None:
        return {}
    if trainer.world_size > 1:
        totals = trainer.strategy.reduce(totals, reduce_op="sum")
    return SigmaBuckets.means(totals)
