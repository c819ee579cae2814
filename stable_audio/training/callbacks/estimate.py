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
"""Time during which steps are timed before the first estimate."""

SURPRISE = 0.25
"""Share by which the time of a step must differ from that of the last estimate for a new one."""


class EstimateTime(StepCallback):
    """Logs how long the rest of the run will take, from the speed of its steps after the first, and again
    when it turns out otherwise: a first epoch may render or encode what later ones find ready.

    The first step is not counted, since it sets up threads, kernels and data. Speed is measured anew for
    twice as long each time.

    Args:
        max_steps: steps of the run.
    """

    def __init__(self, *, max_steps: int) -> None:
        super().__init__()
        self._max_steps, self._window = max_steps, MEASURED_SECONDS
        self._began: float | None = None
        self._first = 0
        self._told: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._began, self._told, self._window = None, None, MEASURED_SECONDS

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        if self._began is None:
            self._began, self._first = now, step
            return
        elapsed = now - self._began
        if elapsed < self._window or step == self._max_steps:
            return
        per_step = elapsed / (step - self._first)
        self._began, self._first, self._window = now, step, 2 * self._window
        if self._told is None or abs(per_step - self._told) > SURPRISE * self._told:
            self._tell(step, per_step, again=self._told is not None)
            self._told = per_step

    def _tell(self, step: int, per_step: float, *, again: bool) -> None:
        speed = (
            f"{1 / per_step:.1f} steps per second" if per_step <= 1 else f"{per_step:.1f} seconds per step"
        )
        log.info(
            "training takes %s more %s (%s, %d of %d steps are done)",
            duration((self._max_steps - step) * per_step),
            "at its present speed" if again else "at this speed",
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
