"""Saves or ends a run between two steps when a signal has arrived."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.stopping import StopRequest


class StopOnSignal(StepCallback):
    """Stops all processes at the same step, or saves, even if only one of them got the signal.

    It also renews `last` when that is due by the clock of the first process.

    The checkpoint of a stop is written by the callback that writes one whenever training ends.
    """

    def __init__(self, request: StopRequest, checkpoints: Checkpoints) -> None:
        super().__init__()
        self.request, self.checkpoints = request, checkpoints

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.request.install()  # whatever a library has put in place meanwhile

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self.request.steps = True
        due = trainer.is_global_zero and self.checkpoints.due(step)
        stop, save = self.request.signal is not None, self.request.save
        if trainer.world_size > 1:
            asked = torch.tensor([stop, save, due], dtype=torch.float32, device=trainer.strategy.root_device)
            stop, save, due = (trainer.strategy.reduce(asked, reduce_op="sum") > 0).tolist()
        if stop:
            trainer.should_stop = True
        elif save:
            self.request.save = False
            self.checkpoints.save(trainer, module)
        elif due:
            self.checkpoints.save(trainer, module, numbered=False)
