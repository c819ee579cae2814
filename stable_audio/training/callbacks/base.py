"""Callbacks that act after optimizer steps, not after batches."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from stable_audio.data.base import Batch
from stable_audio.training.base import TrainingModule


class StepCallback(pl.Callback):
    """Calls `after_step` whenever the weights have moved. With gradient accumulation, batches without a
    step in between pass unnoticed."""

    def __init__(self) -> None:
        self._seen = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            self.after_step(trainer, pl_module, trainer.global_step)

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """`step` optimizer steps are done."""
        raise NotImplementedError


class Bookkeeping(pl.Callback):
    """Tells the module where batches begin and end. It comes first: the others read what it counts."""

    def __init__(self) -> None:
        self._seen = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._seen = trainer.global_step
        pl_module.begin_fit()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        pl_module.begin_batch(batch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        stepped, self._seen = trainer.global_step != self._seen, trainer.global_step
        pl_module.end_batch(stepped=stepped)
