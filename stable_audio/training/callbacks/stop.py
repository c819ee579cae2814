"""Ends a run between two steps when a signal has arrived."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.stopping import StopRequest


class StopOnSignal(StepCallback):
    """Stops all processes at the same step, even if only one of them got the signal.

    The checkpoint is written by the callback that writes one whenever training ends.
    """

    def __init__(self, request: StopRequest) -> None:
        super().__init__()
        self.request = request

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        # Lightning has put handlers of its own in place by now: they end the run in mid-step.
        self.request.install()

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        stop = self.request.signal is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True
