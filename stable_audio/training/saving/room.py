"""Room for checkpoints on a full disk: what goes before anything is written, and before a second try."""

from __future__ import annotations

import errno
import logging
import shutil
from pathlib import Path

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import TRAINING_ENTRY
from stable_audio.checkpoints.shards import check_shards
from stable_audio.incidents import incident
from stable_audio.optim.step_limits import StepLimits
from stable_audio.stored.shards_folder import is_shards
from stable_audio.training.guards.finite import FiniteGuard
from stable_audio.training.guards.finite_values import refuse_no_numbers_in_parts
from stable_audio.training.saving.checkpoint_files import remove_halves
from stable_audio.training.saving.folder import disk_of
from stable_audio.training.saving.pruning import prune, remove_before, remove_left
from stable_audio.training.saving.recovery import load_training_file, newest_first
from stable_audio.training.saving.resuming import Resumed

log = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk, and of a quota that is used up."""


def is_full(error: BaseException, folder: Path, size: int) -> bool:
    """Whether something was not written since the disk is full. Libraries report that in many ways.

    Args:
        error: the exception.
        folder: where it should have been written.
        size: its bytes.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    try:
        return shutil.disk_usage(disk_of(folder)).free <= size
    except OSError:  # the error itself says more
        return False


def clear_at_start(folder: Path, resumed: Resumed, limits: StepLimits | None, *, keep: int) -> None:
    """Remove what a continued run no longer needs, before its first file, which a full disk would not take.

    Args:
        folder: of the run.
        resumed: the checkpoint that it continues from.
        limits: how many bad steps it takes, by which it may have to go back.
        keep: number of numbered checkpoints that stay, -1: all.
    """
    guard, state = FiniteGuard(limits), resumed.content[TRAINING_ENTRY].get("guard")
    if state is not None:
        guard.load_state_dict(state)
    remove_halves(folder)
    remove_left(folder, resumed.step)
    prune(folder, guard.return_point(resumed.step), keep=keep)


def make_room(folder: Path, step: int, *, keep: int) -> bool:
    """Remove checkpoints that a run can do without where the disk has no room for the next one: those that it
    has left, and unless it keeps all, those before the newest one that is whole.

    Args:
        folder: of the run.
        step: that of the run, or the one before its last bad steps, which it may have to go back to.
        keep: number of numbered checkpoints that it would keep, -1: all.

    Returns:
        whether there was something to remove.
    """
    removed = remove_left(folder)
    good = _newest_good(folder, step) if keep > 0 else None
    if good is not None:
        removed += remove_before(folder, good)
    if removed:
        log.warning(
            "%s: the disk is full, so checkpoints that the next one would have replaced are removed already "
            "(%s)",
            folder,
            ", ".join(removed),
            extra=incident("made room"),
        )
    return bool(removed)


def _newest_good(folder: Path, up_to: int) -> float | None:
    """The step of the newest checkpoint up to a step that is whole, read for it; None if there is none."""
    for step, path in newest_first(folder, up_to):
        try:
            if is_shards(path):
                check_shards(path)
                refuse_no_numbers_in_parts(path)
            else:
                load_training_file(path)
        except CheckpointError:  # named where a checkpoint to continue is chosen
            continue
        return step
    return None
