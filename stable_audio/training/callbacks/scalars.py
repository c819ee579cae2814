"""Log lines: loss, learning rate, gradient norm, throughput, where the time goes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from stable_audio.data.base import Batch
from stable_audio.nn.transfer import Readback, to_device
from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.feed import RunData
from stable_audio.training.loggers import RunLogger
from stable_audio.training.speed.clock import StepClock
from stable_audio.training.speed.columns import (
    BatchCount,
    Measured,
    Nominal,
    peak_memory,
    speed_columns,
)
from stable_audio.training.window import SigmaBuckets


@dataclass(frozen=True)
class _Line:
    """A log line, some of whose values are still being copied from the device.

    Attributes:
        step: step of the line.
        names: names of `means`.
        means: means over all processes, being copied; None without any.
        sigma: sums and counts by noise level, being copied, or None.
        speeds: `Measured.numbers` of all processes, being copied.
        host_values: values that are not on the device.
    """

    step: int
    names: tuple[str, ...]
    means: Readback | None
    sigma: Readback | None
    speeds: Readback
    host_values: Mapping[str, float]

    def values(self) -> dict[str, float]:
        """All values by name but those of the speed; waits until they have been copied."""
        values = dict(zip(self.names, self.means.values().tolist())) if self.means is not None else {}
        values.update(self.host_values)
        if self.sigma is not None:
            values.update(SigmaBuckets.means(self.sigma.values()))
        return values


class LogScalars(StepCallback):
    """Logs, every `every` steps, the means since the last line over all processes.

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
        self._pending: _Line | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self._count.add(batch, items=self.items, row=self.row)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._write(trainer)
        self.clock.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._write(trainer)
        self.clock.stop()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._write(trainer)

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self._steps += 1
        self._write(trainer)
        if step % self.every == 0:
            self._pending = self._line(trainer, module, step)
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

    def _line(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> _Line:
        means = module.window.means()
        stacked, totals = stacked_over_processes(trainer, means), _sigma_totals(trainer, module)
        return _Line(
            step=step,
            names=tuple(means),
            means=None if stacked is None else Readback(stacked),
            sigma=None if totals is None else Readback(totals),
            speeds=Readback(gathered(trainer, self._measured(trainer).numbers())),
            host_values={**self._rates(trainer), **self._waiting()},
        )

    def _write(self, trainer: pl.Trainer) -> None:
        """Write the pending line, if there is one."""
        line, self._pending = self._pending, None
        if line is None:
            return
        measured = [Measured.from_numbers(numbers) for numbers in line.speeds.values().tolist()]
        speed = speed_columns(measured, nominal=self.nominal, batch_seconds=self.batch_seconds)
        self.latest, self.latest_step = {**line.values(), **speed}, line.step
        if trainer.is_global_zero:
            self.logger.scalars(self.latest, line.step)

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


def stacked_over_processes(trainer: pl.Trainer, values: Mapping[str, Tensor]) -> Tensor | None:
    """Means over all processes as one tensor on the device of this process; None without values.

    Every process must pass the same names, in the same order.
    """
    if not values:
        return None
    device = trainer.strategy.root_device
    stacked = torch.stack([to_device(v.float().reshape(()), device) for v in values.values()])
    return trainer.strategy.reduce(stacked, reduce_op="mean") if trainer.world_size > 1 else stacked


def gathered(trainer: pl.Trainer, numbers: Sequence[float]) -> Tensor:
    """The numbers of all processes as one tensor (processes, n), on the device if there are several."""
    own = torch.tensor(numbers, dtype=torch.float64)
    if trainer.world_size == 1:
        return own[None]
    everyone = trainer.strategy.all_gather(to_device(own, trainer.strategy.root_device))
    return everyone.view(trainer.world_size, -1)


def _sigma_totals(trainer: pl.Trainer, module: TrainingModule) -> Tensor | None:
    totals = module.buckets.pop()
    if totals is None or trainer.world_size == 1:
        return totals
    return trainer.strategy.reduce(totals, reduce_op="sum")
