"""The checkpoints in a run's folder: which there are, of which steps, and what a kill has left of them."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from stable_audio.checkpoints.shards import EARLIER
from stable_audio.checkpoints.steps import step_of, step_of_inference
from stable_audio.stored.shards_folder import SUFFIX, is_shards

_STEP = re.compile(r"step=(\d+)\.(ckpt|shards)")


def step_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file or folder of parts) of the checkpoints in a run's folder, oldest first.

    A folder of parts counts under its temporary name as well, where a kill in the middle of its replacement
    has left it under no other.
    """
    named = [(path.name, path) for path in (folder / "checkpoints").glob("step=*")]
    named += [(original_place(path).name, path) for path in replaced_shards(folder)]
    found = ((_STEP.fullmatch(name), path) for name, path in named)
    return sorted((int(match[1]), path) for match, path in found if match is not None)


def replaced_shards(folder: Path) -> list[Path]:
    """Folders of parts that were put out of the way of new ones, which are not in their places."""
    hidden = (folder / "checkpoints").glob(f".step=*{EARLIER}")
    return [path for path in hidden if not original_place(path).exists()]


def original_place(replaced: Path) -> Path:
    """The path that a folder of parts had before it was put out of the way."""
    return replaced.with_name(replaced.name.removeprefix(".").removesuffix(EARLIER) + SUFFIX)


def is_numbered(folder: Path, step: int) -> bool:
    """Whether a run's folder has the checkpoint of a step under its number, in parts or as a file with an
    inference file beside it."""
    paths = [path for at, path in step_checkpoints(folder) if at == step]
    return any(is_shards(path) or path.with_suffix(".safetensors").is_file() for path in paths)


def last_steps(folder: Path) -> set[float]:
    """The steps of `last.ckpt`, or of the newest checkpoint in parts where there is none, and of
    `last.safetensors` in a run's folder: one if they belong together; infinite where a file is absent or
    cannot be read."""
    parts = [step for step, path in step_checkpoints(folder) if is_shards(path)]
    whole = (folder / "last.ckpt").is_file() or not parts
    training = step_of(folder / "last.ckpt") if whole else float(parts[-1])
    return {training, step_of_inference(folder / "last.safetensors")}


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, a file or a folder of parts, if it is there.

    A folder is renamed first: what a kill in between leaves of it has no name of a checkpoint, and is removed
    with other incomplete files (`remove_halves`).
    """
    if path.is_dir():
        going = path.with_name(f".{path.stem}.removed.partial{path.suffix}")
        shutil.rmtree(going, ignore_errors=True)
        with suppress(OSError):
            os.replace(path, going)
        for folder in (going, path):
            shutil.rmtree(folder, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove incomplete files of a killed run from its folder, and put back what it was about to replace.
    Nothing may be written there meanwhile."""
    for replaced in replaced_shards(folder):
        os.replace(replaced, original_place(replaced))
    remove_halves(folder)


def remove_halves(folder: Path) -> None:
    """Remove incomplete files of a killed run from its folder. What it was about to replace stays where it
    is, since a run may be about to read it."""
    spared = replaced_shards(folder)
    demos = folder / "demos"
    for place in (folder, folder / "checkpoints", folder / "profile", demos, *demos.glob("step_*")):
        for pattern in (".*.partial.*", ".rescue-*"):
            for half in place.glob(pattern):
                if half not in spared:
                    remove_checkpoint(half)
