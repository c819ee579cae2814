"""Log lines: loss, learning rate, gradient norm, throughput, where the time goes."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.data.base import Batch
from stable_audio.nn.transfer import Readback
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.callbacks.log_line import LogLine, SharedValues, of_each_process
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.speed.clock import StepClock
from stable_audio.training.speed.columns import (
    BatchCount,
    Measured,
    Nominal,
    peak_memory,
    speed_columns,
)


class LogScalars(StepCallback):
    """Logs, every `every` steps, the means since the last line over all processes.

    Processes exchange the scalars of a line before the optimizer of its step steps. One that cannot, since
    another has died, has not taken the step, so that no step is saved without its line.

    On a GPU a line is written one step late, when its values have been copied: reading them at once would
    make the host wait for the device. A line that is not written yet is written before a checkpoint and at
    the end.

    Attributes:
        latest: the last line, for the progress line.
        latest_step: its step.
        nominal: operations of a batch and the peak of the device, once they are known.

    Args:
        logger: where the lines go.
        data: measures how long training waits for data.
        every: steps per line.
        clock: times the parts of steps.
        batch_seconds: seconds of audio that all processes together consume per optimizer step.
        items: rows of a whole batch of one process.
        row: frames of a row, as batches have them.
    """

    def __init__(
        self,
        logger: RunLogger,
        data: RunData,
        clock: StepClock,
        *,
        every: int,
        batch_seconds: float,
        items: int,
        row: int,
    ) -> None:
        super().__init__()
        self.logger, self.data, self.clock = logger, data, clock
        self.every, self.batch_seconds = every, batch_seconds
        self.items, self.row = items, row
        self.latest: dict[str, float] = {}
        self.latest_step = -1
        self.nominal: Nominal | None = None
        self._steps = 0
        self._count = BatchCount()
        self._began = self._paused_at = self._waited = 0.0
        self._shared: SharedValues | None = None
        self._pending: LogLine | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._shared = None
        pl_module.on_values = partial(self._share, trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self._count.add(batch, items=self.items, row=self.row)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._end(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._write(trainer)

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self._steps += 1
        if self._shared is not None:
            line = self._take_line(trainer)  # which stays if the others cannot be reached any more
            measured = of_each_process(trainer, self._measured(trainer).numbers())
            self._pending = replace(line, measured=Readback(measured))
            self._restart()
            if trainer.strategy.root_device.type != "cuda":
                self._write(trainer)
        self._paused_at = time.perf_counter()
        self.clock.switch(None)

    def start_clock(self, device: torch.device) -> None:
        """Begin to time steps."""
        self.clock.start(device)
        self._restart()

    def resume_clock(self) -> None:
        """Take the time of the callbacks after this one out of the time of training."""
        self._began += time.perf_counter() - self._paused_at
        self.clock.switch("other")

    def _share(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """Called when the values of a step are recorded, before the step is taken."""
        self._write(trainer)  # a step that is saved has the line before its own, too
        step = trainer.global_step + 1
        if step % self.every == 0:
            self._shared = SharedValues.take(trainer, module, step)

    def _take_line(self, trainer: pl.Trainer) -> LogLine:
        """Make the pending line of the scalars that were exchanged."""
        shared, self._shared = self._shared, None
        assert shared is not None
        self._pending = LogLine(shared=shared, host_values={**self._rates(trainer), **self._waiting()})
        return self._pending

    def _end(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self._write(trainer)
        if self._shared is not None and self._shared.step == trainer.global_step:  # an error after the step
            self._take_line(trainer)
            self._write(trainer)
        module.on_values = None
        self.clock.stop()

    def _write(self, trainer: pl.Trainer) -> None:
        """Write the pending line, if there is one."""
        line, self._pending = self._pending, None
        if line is None:
            return
        self.latest, self.latest_step = {**line.values(), **self._speed(line)}, line.step
        if trainer.is_global_zero:
            self.logger.scalars(self.latest, line.step)

    def _speed(self, line: LogLine) -> dict[str, float]:
        if line.measured is None:
            return {}
        measured = [Measured.from_numbers(numbers) for numbers in line.measured.values().tolist()]
        return speed_columns(measured, nominal=self.nominal, batch_seconds=self.batch_seconds)

    def _rates(self, trainer: pl.Trainer) -> dict[str, float]:
        rates = [g["lr"] for o in trainer.optimizers for g in o.param_groups]
        if not rates:
            return {}
        return {"train/lr": float(rates[0]), **{f"train/lr_{i}": float(r) for i, r in enumerate(rates) if i}}

    def _waiting(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._began, 1e-9)
        return {"speed/data_wait_share": min(1.0, (self.data.waited - self._waited) / seconds)}

    def _measured(self, trainer: pl.Trainer) -> Measured:
        return Measured(
            steps=self._steps,
            seconds=time.perf_counter() - self._began,
            memory=peak_memory(trainer.strategy.root_device),
            times=self.clock.take(),
            count=self._count,
        )

    def _restart(self) -> None:
        self._steps, self._count = 0, BatchCount()
        self._began, self._waited = time.perf_counter(), self.data.waited


class ResumeClock(StepCallback):
    """Starts and resumes the clock of LogScalars. It must be the last callback, so that what others do at the
    start, demos, validation and checkpoints do not count as training time."""

    def __init__(self, scalars: LogScalars) -> None:
        super().__init__()
        self._scalars = scalars

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._scalars.start_clock(trainer.strategy.root_device)

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self._scalars.resume_clock()
