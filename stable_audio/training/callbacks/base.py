"""Base of the callbacks that act after optimizer steps, and the callback that counts batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.data.base import Batch
from stable_audio.nn.transfer import Readback, to_device
from stable_audio.training.base import TrainingModule
from stable_audio.training.processes.gathering import summed


def on_any_process(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """Which of the flags are set on one of the processes at least. Every process of the run must call it, and
    waits for its device."""
    return list(flags) if trainer.world_size == 1 else _read(_counted(trainer, flags))


class FlagsOfSteps:
    """Which flags are set on one of the processes at least, asked after every step.

    Several processes with GPUs get the answer one step late: the host would have to wait for the device
    otherwise, which would idle until the next step is queued.
    """

    def __init__(self) -> None:
        self._pending: Readback | None = None

    def exchange(self, trainer: pl.Trainer, *flags: bool, at_once: bool = False) -> list[bool]:
        """The flags that are set somewhere; every process must call it.

        Args:
            at_once: those of this step in any case.
        """
        if trainer.world_size == 1:
            return list(flags)
        counted, earlier = _counted(trainer, flags), self._pending
        self._pending = None if at_once or not answers_late(trainer) else counted
        if self._pending is None:
            return _read(counted)
        return [False] * len(flags) if earlier is None else _read(earlier)

    def forget(self) -> None:
        """Leave what the last step has asked, since all processes act now."""
        self._pending = None


def answers_late(trainer: pl.Trainer) -> bool:
    """Whether the host would wait for the device of the run."""
    return trainer.strategy.root_device.type == "cuda"


def _counted(trainer: pl.Trainer, flags: Sequence[bool]) -> Readback:
    """On how many processes each flag is set."""
    own = to_device(torch.tensor(flags, dtype=torch.float32), trainer.strategy.root_device)
    return Readback(summed(own))


def _read(counted: Readback) -> list[bool]:
    return (counted.values() > 0).tolist()


class StepCallback(pl.Callback):
    """Calls `after_step` after every optimizer step, not after batches that only accumulate gradients."""

    def __init__(self) -> None:
        self._last_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            self.after_step(trainer, pl_module, trainer.global_step)

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """Act after the optimizer step that makes `step` steps in all."""
        raise NotImplementedError


class Bookkeeping(pl.Callback):
    """Calls the module's hooks at the beginning of training, and at the beginning and end of batches. It must
    be the first callback, since the others read what these hooks restore and count."""

    def __init__(self) -> None:
        self._last_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._last_step = trainer.global_step
        pl_module.begin_fit()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A run without a step left to train may still validate, render and save what it lacks."""
        if self._last_step < 0 and trainer.global_step > 0:
            trainer.strategy.model_to_device()  # Lightning has moved it to the host
            pl_module.begin_fit()  # the average and schedules of the checkpoint

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        pl_module.begin_batch(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        stepped, self._last_step = trainer.global_step != self._last_step, trainer.global_step
        pl_module.end_batch(stepped=stepped)
