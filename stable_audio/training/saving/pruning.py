"""Removal and renaming of checkpoints that a run no longer needs, or has left for an earlier one."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

from stable_audio.checkpoints.steps import step_of, step_of_inference
from stable_audio.training.saving.checkpoint_files import remove_checkpoint, step_checkpoints
from stable_audio.training.saving.folder import same_file

log = logging.getLogger(__name__)

LEFT = "left-"
"""What precedes the name of a checkpoint that a run has left for an earlier one. It stays for whoever wants
to see what went wrong, until the run has written another one of its step."""

_LEFT_STEP = re.compile(rf"{LEFT}step=(\d+)\.(ckpt|safetensors|shards)")


def prune(folder: Path, step: int, *, keep: int) -> None:
    """Remove all but the newest numbered checkpoints up to a step. Later ones may be of an earlier run that
    went further.

    Args:
        folder: folder of the run.
        step: that of the run, or the one before its last bad steps, which it may have to go back to.
        keep: how many stay; -1: all.
    """
    if keep < 0:
        return
    paths = [path for at, path in step_checkpoints(folder) if at <= step]
    for old in paths[:-keep]:
        _remove_numbered(old)


def remove_before(folder: Path, step: float) -> list[str]:
    """Remove the numbered checkpoints before a step; returns their names."""
    paths = [path for at, path in step_checkpoints(folder) if at < step]
    for path in paths:
        _remove_numbered(path)
    return [path.name for path in paths]


def _remove_numbered(path: Path) -> None:
    # The checkpoint last, so that the next time finds both after a kill in between.
    path.with_suffix(".safetensors").unlink(missing_ok=True)
    remove_checkpoint(path)


def leave_later(folder: Path, step: int, path: Path) -> None:
    """Rename the checkpoints after `step`, which the run leaves, and make `last` that of `step`.

    Otherwise a run that is killed soon afterwards would be continued from one of them, and `last.safetensors`
    of a later step, which a run in parts has left when it was stopped, would count as its newest weights.
    Errors are logged.

    Args:
        folder: folder of the run.
        step: the step that it goes back to.
        path: the checkpoint of that step.
    """
    try:
        for _, later in (entry for entry in step_checkpoints(folder) if entry[0] > step):
            for file in (later, later.with_suffix(".safetensors")):
                if file.exists():
                    left = file.with_name(f"{LEFT}{file.name}")
                    remove_checkpoint(left)  # of an earlier time; a folder is not replaced
                    os.replace(file, left)
        for suffix in (".ckpt", ".safetensors"):
            source, last = path.with_suffix(suffix), folder / f"last{suffix}"
            if source.exists() and source != last and path.parent == folder / "checkpoints":
                same_file(source, last)
        remove_last(folder, lambda at: at > step)
        inference = folder / "last.safetensors"
        if step < step_of_inference(inference) < math.inf:
            inference.unlink()
    except OSError as error:
        log.error("the checkpoints after step %d could not be renamed (%s)", step, error)


def remove_left(folder: Path, step: float = math.inf) -> list[str]:
    """Remove the checkpoints that a run has left, up to the step that it has reached again, of which there is
    another one now; returns their names."""
    found = sorted((folder / "checkpoints").glob(f"{LEFT}step=*"))
    named = ((_LEFT_STEP.fullmatch(path.name), path) for path in found)
    paths = [path for match, path in named if match is not None and int(match[1]) <= step]
    for path in paths:
        remove_checkpoint(path)
    return [path.name for path in paths]


def remove_last(folder: Path, chosen: Callable[[float], bool]) -> None:
    """Remove `last.ckpt` if it can be read and its step is one of those that are chosen."""
    last = folder / "last.ckpt"
    if last.is_file() and (step := step_of(last)) < math.inf and chosen(step):
        last.unlink()
