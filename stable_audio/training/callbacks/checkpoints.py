"""Checkpoints every N steps, at the end and on request; `last` is always complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from stable_audio.checkpoints.scale import with_scale
from stable_audio.incidents import incident
from stable_audio.training.base import TrainingModule
from stable_audio.training.batches.feed import RunData
from stable_audio.training.callbacks.base import StepCallback
from stable_audio.training.callbacks.position import add_position, go_on_from
from stable_audio.training.guards.finite import not_finite
from stable_audio.training.guards.rescue import claim_rescue, leave_rescue
from stable_audio.training.saving.batch_counts import end_last_batch
from stable_audio.training.saving.checkpoint_files import is_numbered, last_steps, remove_leftovers
from stable_audio.training.saving.checkpoint_io import AtomicCheckpointIO
from stable_audio.training.saving.folder import same_file
from stable_audio.training.saving.pruning import prune, remove_left
from stable_audio.training.saving.room import make_room

log = logging.getLogger(__name__)

FIRST_STEPS = 100
FIRST_MINUTES = 5.0

RETRY_MINUTES = 1.0
"""Time after which a checkpoint that could not be written is followed by another one."""


class Checkpoints(StepCallback):
    """Writes `checkpoints/step=N.ckpt` with an inference file beside it, and `last.*` in the run's folder.

    A checkpoint holds weights, their average, optimizer, LR scheduler, position in the data and in every
    stream of random numbers, and the config: a run that continues from it gives the same results as an
    uninterrupted run. The inference file (`.safetensors`) holds what generation needs.

    Attributes:
        seconds: duration of the last save, until it was on disk.
        paused: save nothing, since the run leaves the present step for an earlier one.
        stale: another callback has changed what the checkpoint that this start continues should hold.

    Args:
        folder: folder of the run.
        config: the model config.
        every: steps between checkpoints; 0 = only at the end.
        keep: number of step checkpoints to keep, -1 = all.
        minutes: time after which `last` alone is renewed; 0 = by steps alone.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        data: RunData,
        io: AtomicCheckpointIO,
        *,
        every: int,
        keep: int = -1,
        minutes: float = 0.0,
    ) -> None:
        super().__init__()
        self.folder, self.config = Path(folder), dict(config)
        self.data, self.io = data, io
        self.every, self.keep, self.minutes = every, keep, minutes
        self.seconds = 0.0
        self.paused = self.stale = False
        self._saved_at = self._numbered_at = -1
        self._clock = 0.0
        self._alone = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self._clock, self._first = time.monotonic(), trainer.global_step + FIRST_STEPS
        self._saved_at = self._numbered_at = -1
        self._begin(trainer, pl_module)
        if self._is_due(trainer.global_step) and continues(trainer, self.folder):
            # A process has died while they validated or wrote: the checkpoint of this step is missing, or
            # lacks its validation.
            self._complete(trainer, pl_module, is_numbered)

    def _begin(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """What comes before the first checkpoint of a start."""
        if module.saved.adapter is not None:
            module.saved = module.saved.with_clips(self.data.clips())
        self.io.writer.wait()  # files of other callbacks
        if trainer.is_global_zero:
            remove_leftovers(self.folder)
            prune(self.folder, module.guard.return_point(trainer.global_step), keep=self.keep)
            remove_left(self.folder, trainer.global_step)

    def _complete(
        self, trainer: pl.Trainer, module: TrainingModule, is_whole: Callable[[Path, int], bool]
    ) -> None:
        """Save the step that this start begins with, unless its checkpoint holds all that it should."""
        lacks = trainer.is_global_zero and (self.stale or not is_whole(self.folder, trainer.global_step))
        if trainer.strategy.broadcast(lacks):
            self.save(trainer, module)

    def _is_due(self, step: int) -> bool:
        return self.every > 0 and step > 0 and step % self.every == 0

    def after_step(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        if self._is_due(step):
            self.save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        # The clock may have saved this step, as `last` alone.
        if trainer.global_step != self._numbered_at and trainer.global_step > 0:
            self.save(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Save where there was no step to train, and `last` and a numbered checkpoint are not both of this
        step, with its validation: a run that was killed in between, or has died of an error in this step, or
        that continues a checkpoint of another folder."""
        if not self._clock and trainer.global_step > 0:
            self._begin(trainer, pl_module)
            if not self._is_due(trainer.global_step):  # else it is saved before the end of its batch
                end_last_batch(trainer)
            self._complete(trainer, pl_module, _is_last)

    def is_outdated(self, step: int) -> bool:
        """Whether `last` is too old. The first one comes early, so that a short run has a checkpoint."""
        if self.every == 0 or step == self._saved_at:
            return False
        minutes = (time.monotonic() - self._clock) / 60
        if self.io.failure is not None and minutes >= RETRY_MINUTES:
            return True  # the disk may have room again
        if self.minutes == 0:
            return False
        first = self._saved_at < 0 and (step >= self._first or minutes >= FIRST_MINUTES)
        return first or minutes >= self.minutes

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save `last` after an error, unless weights are not finite or Ctrl-C interrupted the run."""
        ended = isinstance(exception, KeyboardInterrupt) or trainer.global_step in (0, self._saved_at)
        if ended or not self._clock or not claim_rescue(trainer, pl_module, self.folder):
            return
        self._alone = True  # the other processes may have ended, or wait elsewhere
        try:
            # No number, which the run would not have without the error: the next checkpoint replaces it.
            self.save(trainer, pl_module, numbered=False)
            self.io.writer.wait()
        except Exception as error:
            leave_rescue(self.folder, trainer.global_step)
            log.error("no checkpoint of the failed run (%s: %s)", type(error).__name__, error)
            return
        if self.io.failure is not None:
            leave_rescue(self.folder, trainer.global_step)
        else:
            log.warning(
                "the run fails after step %d; its checkpoint is written",
                trainer.global_step,
                extra=incident("rescued", step=trainer.global_step),
            )

    def save(self, trainer: pl.Trainer, module: TrainingModule, *, numbered: bool = True) -> None:
        """Save the current step. Every process must call it; the file is written while training continues.

        Args:
            numbered: True: as `step=N` and as `last`; False: as `last` only.
        """
        if not self._may_save(trainer, module):
            return
        step, began = trainer.global_step, time.monotonic()
        kept = self._prepare(module, step, numbered=numbered)
        target = self.folder / (f"checkpoints/step={step:08d}.ckpt" if numbered else "last.ckpt")
        with self.io.writer.group():
            self.io.failure = None  # of an earlier save: most processes write nothing that would take it back
            self.io.make_room = partial(make_room, self.folder, kept, keep=self.keep)
            if self._alone:
                content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
                self.io.save_checkpoint(content, target)
            else:
                trainer.save_checkpoint(target, weights_only=False)
            self._saved_at, self._clock = step, time.monotonic()
            tensors = module.inference_tensors()  # of all processes, which may have a part each
            if not trainer.is_global_zero and not self._alone:
                return
            weights = module.weights_label
            config = with_scale(self.config, module.model)
            write = partial(module.saved.write, config=config, weights=weights, info={"step": step})
            publish = partial(self._publish, target, step, write=write, began=began, kept=kept)
            self.io.writer.write(tensors, publish)

    def _may_save(self, trainer: pl.Trainer, module: TrainingModule) -> bool:
        """Whether this step is worth a checkpoint: not one that the run leaves, nor one whose weights or
        optimizer state are not all numbers, so that the run can go back to an earlier one. Every process must
        call it."""
        if self.paused:
            return False
        if self._alone:  # what is saved after an error has been looked at
            return True
        broken = not_finite(module, trainer.optimizers)
        if trainer.strategy.reduce_boolean_decision(broken is None, all=True):
            return True
        self.io.writer.wait()
        self._clock = time.monotonic()
        reason = broken or "another process holds values that are not finite"
        self.io.refuse(reason, step=trainer.global_step)
        return False

    def _prepare(self, module: TrainingModule, step: int, *, numbered: bool) -> int:
        """What comes before a save; returns the step up to which `prune` counts after it."""
        self._numbered_at = step if numbered else self._numbered_at
        self.stale = False
        module.before_save()
        return module.guard.return_point(step)

    def _publish(
        self,
        target: Path,
        step: int,
        tensors: Mapping[str, Tensor],
        *,
        write: Callable[..., None],
        began: float,
        kept: int,
    ) -> None:
        """The inference file beside the checkpoint, `last.*`, and at the very end the removal of old ones.

        Args:
            write: writes the inference file (path, tensors).
            kept: the step up to which `prune` counts.
        """
        if self.io.failure is not None:
            return
        try:
            self.io.with_room(partial(self._put_beside, target, tensors, write), self.folder, tensors)
            prune(self.folder, kept, keep=self.keep)
            remove_left(self.folder, step)
        except OSError as error:
            self.io.fail(target, error, tensors, what="the files beside the checkpoint were", step=step)
        self.seconds = time.monotonic() - began

    def _put_beside(self, target: Path, tensors: Mapping[str, Tensor], write: Callable[..., None]) -> None:
        inference = target.with_suffix(".safetensors")
        write(inference, tensors)
        if inference.name != "last.safetensors":
            same_file(inference, self.folder / "last.safetensors")
            if not target.is_dir():  # DeepSpeed writes a folder of its own, which is not linked or copied
                same_file(target, self.folder / "last.ckpt")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        add_position(checkpoint, trainer, pl_module, self.data, self.config, alone=self._alone)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        go_on_from(checkpoint, trainer, pl_module, self.data, self.config)


def _is_last(folder: Path, step: int) -> bool:
    """Whether `step` has its number and the names `last`."""
    return is_numbered(folder, step) and last_steps(folder) == {step}


def continues(trainer: pl.Trainer, folder: Path) -> bool:
    """Whether the run goes on from a checkpoint in its own folder."""
    path = trainer.ckpt_path
    return path is not None and Path(path).resolve().is_relative_to(folder.resolve())
