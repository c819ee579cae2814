"""Checkpoints in parts: every process writes what it has, while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.scale import with_scale
from stable_audio.checkpoints.shards import Shards, read_shards, taken_apart
from stable_audio.stored.shards_folder import SUFFIX, is_shards
from stable_audio.training.base import TrainingModule
from stable_audio.training.callbacks.checkpoints import Checkpoints
from stable_audio.training.saving.checkpoint_files import remove_checkpoint, step_checkpoints
from stable_audio.training.saving.pruning import prune, remove_last, remove_left
from stable_audio.training.saving.room import make_room
from stable_audio.training.saving.shard_writing import ShardWriting

PASSING = "passing"
"""Key of a checkpoint: whether it was written by the clock, and goes when the next one is complete."""


class ShardCheckpoints(Checkpoints):
    """Writes `checkpoints/step=N.shards`, and one `last.safetensors` at the end.

    There is no `last.ckpt`: the newest folder is the checkpoint to continue. A run that fails leaves the one
    that `Checkpoints` writes, if its processes have whole weights. That, and a folder that was written by the
    clock, go when the next folder is complete.
    """

    _writing: ShardWriting | None = None
    _passing: Collection[Path] = ()

    def _begin(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        super()._begin(trainer, module)
        module.saves_parts = True
        if self._writing is None:
            self._writing = ShardWriting()
        if trainer.is_global_zero:  # the run may have been killed before the next one
            self._passing = _passing_shards(self.folder, trainer.global_step)

    def _place(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step={step:08d}{SUFFIX}"

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        if trainer.global_step > 0 and not self.paused:
            self._write_inference(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trained, before = bool(self._clock), self._saved_at
        super().on_fit_end(trainer, pl_module)
        if not trained and self._saved_at != before:
            self._write_inference(trainer, pl_module)

    def save(self, trainer: pl.Trainer, module: TrainingModule, *, numbered: bool = True) -> None:
        """Save the current step. Every process must call it; training waits until what this one has is
        copied."""
        if self._alone:
            super().save(trainer, module, numbered=numbered)
            return
        if not self._may_save(trainer, module):
            return
        assert self._writing is not None
        step, began = trainer.global_step, time.monotonic()
        kept = self._prepare(module, step, numbered=numbered)
        target = self._place(step)
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        content[TRAINING_ENTRY][PASSING] = not numbered
        parts = taken_apart(content)
        self._saved_at, self._clock = step, time.monotonic()
        write = partial(self._write, target, step, began=began, numbered=numbered, kept=kept)
        self.io.writer.write(parts, write)

    def _write(
        self, target: Path, step: int, parts: Shards, *, began: float, numbered: bool, kept: int
    ) -> None:
        assert self._writing is not None
        self.io.make_room = partial(make_room, self.folder, kept, keep=self.keep)
        try:
            write = partial(self._writing.write, target, parts)
            self.io.with_room(write, self.folder, parts.tensors, agreed=self._first_makes_room)
            self.io.failure = None
            if self._writing.rank == 0:
                for passed in self._passing:
                    if passed != target:
                        remove_checkpoint(passed)
                self._passing = () if numbered else (target,)
                remove_last(self.folder, lambda at: at <= step)
                prune(self.folder, kept, keep=self.keep)
                remove_left(self.folder, step)
        except OSError as error:
            self.io.fail(target, error, parts.tensors, step=step)
        self.seconds = time.monotonic() - began

    def _first_makes_room(self, makes_room: Callable[[], bool]) -> bool:
        """Whether the first process has made room, which decides and removes for all."""
        assert self._writing is not None
        first = self._writing.rank == 0
        return self._writing.any(lambda: first and makes_room())

    def _write_inference(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """One file for generation, of the weights that all processes have together."""
        tensors = module.inference_tensors()
        if not trainer.is_global_zero:
            return
        path, step = self.folder / "last.safetensors", trainer.global_step
        config = with_scale(self.config, module.model)
        info = {"step": step}
        write = partial(module.saved.write, config=config, weights=module.weights_label, info=info)
        self.io.writer.write(tensors, partial(self._written, write, path, step))

    def _written(self, write: Any, path: Path, step: int, tensors: Any) -> None:
        try:
            self.io.with_room(partial(write, path, tensors), path.parent, tensors)
        except OSError as error:
            what = "the inference file, which `stable-audio export` makes too, was"
            checkpoint = self.io.failure
            self.io.fail(path, error, tensors, what=what, step=step)
            self.io.failure = checkpoint or self.io.failure  # that it is made from counts more


def _passing_shards(folder: Path, step: int) -> list[Path]:
    """Those of the two newest folders up to a step that were written by the clock. Earlier ones went before
    the newer of these was begun."""
    newest = [path for at, path in step_checkpoints(folder) if at <= step and is_shards(path)][-2:]
    return [path for path in newest if _is_passing(path)]


def _is_passing(path: Path) -> bool:
    try:
        content = read_shards(path, wanted=lambda key: False, verify=False)
    except CheckpointError:  # named where a checkpoint to continue was chosen
        return False
    return bool(content[TRAINING_ENTRY].get(PASSING))
