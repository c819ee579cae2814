"""Which checkpoint of a run's folder a run goes on from: the newest one that is whole."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_audio.checkpoints import read_checkpoint
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.files import TRAINING_ENTRY, load_torch_file

log = logging.getLogger(__name__)

_STEP = re.compile(r"step=(\d+)\.ckpt")


def step_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the checkpoints of a run's folder, oldest first."""
    matches = [(_STEP.fullmatch(p.name), p) for p in (folder / "checkpoints").glob("step=*.ckpt")]
    return sorted((int(match[1]), path) for match, path in matches if match is not None)


def newest_whole(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest training checkpoint of a run's folder whose bytes are as they were written, and its content.

    Newer ones that are damaged are named in the log. None where the folder has no training checkpoint.

    Raises:
        CheckpointError: it has some, and not one is whole; each with its reason.
    """
    reasons: list[str] = []
    for path in _newest_first(folder):
        try:
            content = load_training_file(path)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            log.error("%s", reason)
        if reasons:
            step = content[TRAINING_ENTRY]["step"]
            log.warning("going on from %s, step %d, the newest checkpoint that is whole", path, step)
        return path, content
    if reasons:
        raise CheckpointError(
            f"{folder}: not one of {len(reasons)} checkpoints is whole: {'; '.join(reasons)}. To start from "
            "the beginning, leave --recover out or choose another --name"
        )
    return None


def stored_config(given: str | Path) -> tuple[Path, Mapping[str, Any] | None]:
    """(file, model config in it) of a checkpoint, or of the newest training checkpoint in a run's folder that
    is whole: the one that the run goes on from.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    folder = Path(given).expanduser()
    newest = newest_whole(folder) if folder.is_dir() else None
    if newest is not None:
        return newest[0], newest[1].get("model_config")
    stored = read_checkpoint(given)
    return stored.path, stored.config


def load_training_file(path: Path) -> dict[str, Any]:
    """A training checkpoint of this program, verified.

    Raises:
        CheckpointError: it is none, or cannot be read.
    """
    content = load_torch_file(path) if path.suffix != ".safetensors" else {}
    if TRAINING_ENTRY not in content:
        raise CheckpointError(
            f"{path}: not a training checkpoint of this program, so it cannot be continued; "
            "to start from its weights, use --pretrained-ckpt-path"
        )
    return content


def _newest_first(folder: Path) -> list[Path]:
    """`last.ckpt` is mostly another name of the newest step's file; a killed run may have left it behind."""
    last = folder / "last.ckpt"
    steps: list[tuple[float, bool, Path]] = [(s, False, p) for s, p in step_checkpoints(folder)]
    if last.is_file():
        steps = [entry for entry in steps if not entry[2].samefile(last)]
        steps.append((_step_of(last), True, last))
    return [path for _, _, path in sorted(steps, reverse=True)]


def _step_of(path: Path) -> float:
    """The step of a training checkpoint, beyond all others where it cannot be read."""
    try:
        return float(load_torch_file(path, verify=False)[TRAINING_ENTRY]["step"])
    except (CheckpointError, KeyError, TypeError):
        return math.inf
