"""A progress line on stderr: step, loss, speed, time left."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

import lightning.pytorch as pl

from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.callbacks.scalars import LogScalars

WORTH_TELLING = 0.1
"""Share of the time in wait for data from which on the line says so."""


class ProgressLine(StepCallback):
    """Redraws one line on a terminal; elsewhere writes a new line every half minute.

    Args:
        scalars: scalars whose latest values are shown.
        max_steps: steps of the run; -1 = unknown.
        stream: where the line is written; default: stderr.
    """

    def __init__(self, scalars: LogScalars, *, max_steps: int, stream: TextIO | None = None) -> None:
        super().__init__()
        self._scalars, self._max_steps = scalars, max_steps
        self._stream = stream if stream is not None else sys.stderr
        self._redraws = self._stream.isatty()
        self._pause = 0.5 if self._redraws else 30.0
        self._began = self._drawn = 0.0
        self._first = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._began, self._first = time.monotonic(), trainer.global_step

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        now = time.monotonic()
        if not trainer.is_global_zero or (now - self._drawn < self._pause and step != self._max_steps):
            return
        self._drawn = now
        line = self.line(step, now - self._began)
        self._stream.write(f"\r\x1b[K{line}" if self._redraws else f"{line}\n")
        self._stream.flush()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and self._redraws:
            self._stream.write("\n")

    def line(self, step: int, elapsed: float) -> str:
        """The line at `step`, `elapsed` seconds after the start."""
        rate = (step - self._first) / max(elapsed, 1e-9)
        latest = self._scalars.latest
        parts = [f"step {step}" + (f"/{self._max_steps}" if self._max_steps > 0 else "")]
        if "train/loss" in latest:
            parts.append(f"loss {latest['train/loss']:.4f}")
        parts.append(f"{rate:.2f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.2f} s/step")
        if "speed/audio_seconds_per_second" in latest:
            parts.append(f"{latest['speed/audio_seconds_per_second']:.1f} s audio/s")
        if "speed/mfu" in latest:
            parts.append(f"MFU {latest['speed/mfu']:.0%}")
        if latest.get("speed/data_wait_share", 0.0) >= WORTH_TELLING:
            parts.append(f"{latest['speed/data_wait_share']:.0%} waiting for data")
        parts.append(f"{_clock(elapsed)} gone")
        if self._max_steps > 0:
            parts.append(f"{_clock((self._max_steps - step) / max(rate, 1e-9))} left")
        return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds_left:02d}" if hours else f"{minutes}:{seconds_left:02d}"
