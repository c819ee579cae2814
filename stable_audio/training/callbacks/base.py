"""Base of the callbacks that act after optimizer steps, and the callback that counts batches."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.data.base import Batch
from stable_audio.training.base import TrainingModule


def on_any_process(trainer: pl.Trainer, *flags: bool) -> list[bool]:
    """Which of the flags are set on one of the processes at least. Every process of the run must call it."""
    if trainer.world_size == 1:
        return list(flags)
    own = torch.tensor(flags, dtype=torch.float32, device=trainer.strategy.root_device)
    return (trainer.strategy.reduce(own, reduce_op="sum") > 0).tolist()  # type: ignore[union-attr, operator]


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
