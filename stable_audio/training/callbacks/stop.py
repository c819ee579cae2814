"""Saves or ends a run between two steps when a signal has arrived."""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection
from typing import Any

import lightning.pytorch as pl

from stable_audio.incidents import incident
from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.base import FlagsOfSteps, StepCallback
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.processes.gathering import of_all
from stable_audio.training.processes.stopping import StopRequest

log = logging.getLogger(__name__)


class StopOnSignal(StepCallback):
    """Stops all processes at the same step, or saves, even if only one of them got the signal.

    It also renews `last` when the clock of the first process says that it is too old. The checkpoint of a
    stop is written by `Checkpoints`, as at every end of training. With several GPUs it acts one step later.

    Args:
        request: the signals of this process.
        checkpoints: save.
        pauses: numbers of steps after which demos or a validation follow each time, which a run that is about
            to end leaves out: it acts at once there, so that they are those of its last step.
    """

    def __init__(
        self, request: StopRequest, checkpoints: Checkpoints, *, pauses: Collection[int] = ()
    ) -> None:
        super().__init__()
        self.request, self.checkpoints, self.pauses = request, checkpoints, pauses
        self._flags = FlagsOfSteps()
        self._stopped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._flags.forget()
        self._stopped = self.request.over = False
        self.request.install()  # again, since a library may have replaced the handlers

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """All processes end as one does that got a signal at the last step, also after it was asked for."""
        if self.checkpoints.paused:  # training goes on from an earlier step
            return
        (stop,) = self._flags.exchange(trainer, self.request.asked, at_once=True)
        if stop and not self._stopped:
            self._stop(trainer, trainer.global_step)
        self.request.over = True

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self.request.steps = True
        renew = trainer.is_global_zero and self.checkpoints.is_outdated(step)
        flags = self.request.asked, self.request.save, renew
        at_once = any(step % every == 0 for every in self.pauses)
        stop, save, renew = self._flags.exchange(trainer, *flags, at_once=at_once)
        if stop or save or renew:
            self._flags.forget()
        if stop:
            self._stop(trainer, step)
        elif save:
            self.request.save = False
            self.checkpoints.save(trainer, module)
        elif renew:
            self.checkpoints.save(trainer, module, numbered=False)

    def _stop(self, trainer: pl.Trainer, step: int) -> None:
        trainer.should_stop = self._stopped = True
        self._share(trainer)
        assert self.request.number is not None
        name = signal.Signals(self.request.number).name
        at = " at another process" if self.request.signal is None else ""
        log.warning("%s%s: the run ends at step %d", name, at, step, extra=incident("signal", step=step))

    def _share(self, trainer: pl.Trainer) -> None:
        """Let processes that got no signal know that of another one: they end with its status, and the first
        one puts the job back into the queue, whoever got the signal."""
        if trainer.world_size > 1:
            signals = [number for number in of_all(self.request.signal) if number is not None]
            self.request.others = max(signals)
