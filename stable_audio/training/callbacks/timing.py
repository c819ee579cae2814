"""Tell the clock of a run which part of a step begins."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from stable_audio.training.callbacks.base import StepCallback


class TimeParts(StepCallback):
    """Switches the module's clock between the parts of a step. It stands between Bookkeeping, which still
    updates the average of the weights, and everything else."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.clock.switch("forward")

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Any) -> None:
        pl_module.clock.switch("backward")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # Modules that optimise by hand may compute more, and say themselves when they step.
        pl_module.clock.switch("forward" if pl_module.by_hand else "optimizer")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.clock.switch("other")
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def after_step(self, trainer: pl.Trainer, module: Any, step: int) -> None:
        module.clock.end_step()
