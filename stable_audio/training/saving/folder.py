"""The folder of a run, which holds the files of one run only."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.writable import require_folder
from stable_audio.training.errors import TrainingError
from stable_audio.training.saving.checkpoint_files import remove_checkpoint, step_checkpoints

log = logging.getLogger(__name__)

FILES = (
    "last.ckpt",
    "last.safetensors",
    "best.safetensors",
    "base.safetensors",
    "metrics.csv",
    "wandb_run_id",
    "run.json",
    "run.html",
)
FILES_BY_PATTERN = ("log*.txt", "incidents.*.jsonl", "model.json", "dataset.json", "val_dataset.json")
FOLDERS = ("checkpoints", "demos", "tensorboard", "wandb", "profile")


def disk_of(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists, by which its disk is asked for the room on it."""
    return next((place for place in (folder, *folder.parents) if place.is_dir()), Path())


def holds_a_run(folder: Path) -> str | None:
    """The name of a file that shows an earlier run in `folder`; None if there is none.

    A run that did not reach its first step does not count, so that all processes of one run, which look
    before the first step, get the same result.
    """
    numbered = (folder / "checkpoints").glob("step=*")
    for path in (folder / "last.ckpt", *sorted(p for p in numbered if p.suffix in (".ckpt", ".shards"))):
        if path.exists():
            return path.name
    try:
        with open(folder / "metrics.csv", "rb") as file:
            if file.readline().strip() and file.readline().strip(b"\0\r\n "):
                return "metrics.csv"
    except OSError:
        return None
    return None


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder, or the place of one that is not there yet, that takes no files.

    A full disk is taken: a run that goes on makes room on it.

    Raises:
        TrainingError: it takes none.
    """
    try:
        require_folder(folder, "--save-dir/--name", may_be_full=True)
    except ValueError as error:
        raise TrainingError(str(error)) from error


def claim(folder: Path, *, overwrite: bool, continues: bool) -> Callable[[], None]:
    """Refuse to mix two runs in one folder.

    Args:
        overwrite: remove the files of the earlier run.
        continues: whether this run continues the earlier one.

    Returns:
        a function that removes the earlier run if `overwrite`; one process must call it.

    Raises:
        TrainingError: there is another run, and it is neither continued nor overwritten.
    """
    sign = None if continues else holds_a_run(folder)
    if sign is not None and not overwrite:
        raise TrainingError(
            f"{folder} holds a run already ({sign}); --recover continues it, --overwrite replaces it, and "
            "another --name leaves it alone"
        )
    return (lambda: None) if continues or not overwrite else (lambda: _remove_run(folder))


def training_files(folder: Path) -> frozenset[tuple[str, int]]:
    """(name, time of writing) of the training checkpoints and metrics in a run's folder, by which it shows
    whether another run has written there meanwhile."""
    numbered = (path for _, path in step_checkpoints(folder))
    paths = [folder / "last.ckpt", folder / "metrics.csv", *numbered]
    found = set()
    for path in paths:
        try:
            found.add((path.name, path.stat().st_mtime_ns))
        except OSError:  # not there, or removed meanwhile
            continue
    return frozenset(found)


def refuse_changed(folder: Path, before: frozenset[tuple[str, int]]) -> None:
    """Refuse a folder in which another run has written since this one has looked at it.

    Args:
        before: `training_files` at that time.

    Raises:
        TrainingError: it has.
    """
    if training_files(folder) != before:
        raise TrainingError(
            f"{folder}: another run has written there while this one was being prepared; start this one "
            "again, with --recover to continue from what is there now, or choose another --name"
        )


def put_aside(path: Path) -> Path:
    """Rename a file or folder that cannot be used as what its name says; returns its new path.

    Raises:
        OSError: it cannot be renamed.
    """
    for number in itertools.count(1):
        suffix = "" if number == 1 else str(number)
        aside = path.with_name(f"{path.stem}.damaged{suffix}{path.suffix}")
        if not os.path.lexists(aside):
            break
    os.replace(path, aside)
    return aside


def make_way(path: Path) -> None:
    """Put aside a folder that has the name of a file which is about to be written."""
    if path.is_dir() and not path.is_symlink():
        log.warning("%s is a folder and is now %s", path, put_aside(path))


def same_file(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy if the file system has no links. A folder of that name
    is put aside.

    Raises:
        OSError: it cannot be written.
    """
    make_way(target)
    with atomic_write(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _remove_run(folder: Path) -> None:
    """Remove all files that runs write, and no others."""
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in (*FILES, *FILES_BY_PATTERN):
        for path in folder.glob(pattern):
            remove_checkpoint(path)
