"""Estimate early how long a run will take."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning.pytorch as pl

from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback

log = logging.getLogger(__name__)

MEASURED_SECONDS = 10.0


class EstimateTime(StepCallback):
    """Logs once how long the rest of the run will take, from the speed of its steps after the first.

    The first step is not counted, since it sets up threads, kernels and data.

    Args:
        max_steps: steps of the run.
        measured_seconds: seconds during which steps are timed before the estimate.
    """

    def __init__(self, *, max_steps: int, measured_seconds: float = MEASURED_SECONDS) -> None:
        super().__init__()
        self._max_steps, self._measured_seconds = max_steps, measured_seconds
        self._began: float | None = None
        self._first = 0
        self._is_done = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._began, self._is_done = None, not trainer.is_global_zero

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, self._first = now, step
            return
        elapsed = now - self._began
        if self._is_done or elapsed < self._measured_seconds:
            return
        self._is_done = True
        remaining = (self._max_steps - step) * elapsed / (step - self._first)
        rate = (step - self._first) / max(elapsed, 1e-9)
        speed = f"{rate:.1f} steps per second" if rate >= 1 else f"{1 / rate:.1f} seconds per step"
        log.info(
            "training takes %s more at this speed (%s, %d of %d steps are done)",
            duration(remaining),
            speed,
            step,
            self._max_steps,
        )


def duration(seconds: float) -> str:
    """A duration in words: "about 40 seconds", "about 12 minutes", "about 3.5 hours"."""
    for unit, size, end in (("seconds", 1.0, 90.0), ("minutes", 60.0, 90 * 60.0)):
        if seconds < end:
            count = max(round(seconds / size), 1)
            return f"about {count} {unit if count > 1 else unit[:-1]}"
    hours = seconds / 3600
    return f"about {hours:.1f} hours" if hours < 48 else f"about {hours / 24:.1f} days"
