"""Choose the checkpoint in a run's folder to continue from: the newest one that is not damaged, and whose
weights, average and optimizer state are all numbers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_audio.checkpoints import read_checkpoint
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import TRAINING_ENTRY, refuse_newer
from stable_audio.checkpoints.shards import read_shards
from stable_audio.checkpoints.steps import step_of
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.config import ModelConfig, load_config
from stable_audio.incidents import incident
from stable_audio.stored.shards_folder import is_shards
from stable_audio.training.errors import TrainingError
from stable_audio.training.guards.finite_values import AVERAGE, OPTIMIZERS, refuse_no_numbers
from stable_audio.training.saving.checkpoint_files import step_checkpoints

log = logging.getLogger(__name__)

_LARGE = (OPTIMIZERS, AVERAGE)


def newest_whole(
    folder: Path, *, up_to: float = math.inf, advice: str = ""
) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged training checkpoint in a run's folder, and its content.

    Newer, damaged ones are logged. None if the folder has no training checkpoint.

    Args:
        up_to: of this step at most.
        advice: what to do where all are damaged, for the message; each reason has its own already.

    Raises:
        CheckpointError: all training checkpoints are damaged; the message has the reason for each.
    """
    reasons: list[str] = []
    for _, path in newest_first(folder, up_to):
        try:
            content = load_training_file(path)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            log.error("%s", reason, extra=incident("damaged checkpoint"))
        if reasons:
            step = content[TRAINING_ENTRY]["step"]
            log.warning("continuing from %s, step %d, the newest checkpoint that is not damaged", path, step)
        return path, content
    if reasons:
        raise CheckpointError(
            f"{folder}: no checkpoint is whole, of {len(reasons)}: {'; '.join(reasons)}"
            f"{'; ' if advice else ''}{advice}"
        )
    return None


def stored_config(source: str | Path) -> tuple[Path, Mapping[str, Any] | None]:
    """(file, model config in it) of a checkpoint, or of the one that a run's folder continues from.

    Args:
        source: a checkpoint file, or the folder of a run.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
    """
    folder = Path(source).expanduser()
    newest = newest_whole(folder) if folder.is_dir() else None
    if newest is not None:
        return newest[0], newest[1].get("model_config")
    checkpoint = read_checkpoint(source)
    return checkpoint.path, checkpoint.config


def config_inside(source: str | Path, *, lenient: bool = False, advice: str) -> ModelConfig:
    """The config inside a checkpoint, or inside the one that a run's folder continues from.

    Args:
        source: as for `stored_config`.
        lenient: unknown keys become warnings.
        advice: what to do where there is none, for the message.

    Raises:
        TrainingError: there is none.
        CheckpointError: there is no checkpoint, or it cannot be read.
        ConfigError: with every mistake of the config.
    """
    file, config = stored_config(source)
    if config is None:
        raise TrainingError(f"{file} has no config inside; {advice}")
    return load_config(config, lenient=lenient, source_name=f"{file}, config")


def load_training_file(path: Path) -> dict[str, Any]:
    """Read a training checkpoint of this program, and verify its checksums and that its weights, their
    average and the state of its optimizers are numbers.

    Of one in parts, optimizer and average, which may be large, are on the device "meta": they are looked at
    a few at a time, and read where they are needed.

    Raises:
        CheckpointError: it cannot be read, is not a training checkpoint of this program, or has values that
            are not finite.
    """
    if is_shards(path):
        content = read_shards(path, wanted=lambda key: not key.startswith(_LARGE))
    else:
        content = load_torch_file(path) if path.suffix != ".safetensors" else {}
    if TRAINING_ENTRY not in content:
        raise CheckpointError(
            f"{path}: not a training checkpoint of this program, so it cannot be continued; "
            "to start from its weights, use --pretrained-ckpt-path"
        )
    refuse_newer(path, content[TRAINING_ENTRY]["format_version"])
    refuse_no_numbers(path, content)
    return content


def newest_first(folder: Path, up_to: float) -> list[tuple[float, Path]]:
    """(step, training checkpoint) up to a step, newest first, or all if that is infinite. `last.ckpt` is
    usually another name of the newest numbered one, but older after a run was killed."""
    last = folder / "last.ckpt"
    steps: list[tuple[float, bool, Path]] = [(s, False, p) for s, p in step_checkpoints(folder)]
    if last.is_file():
        steps = [entry for entry in steps if not _is_same(entry[2], last)]
        steps.append((step_of(last), True, last))
    return [(step, path) for step, _, path in sorted(steps, reverse=True) if step <= up_to]


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths are names of one file; False where one cannot be read, as a link to nothing."""
    try:
        return path.samefile(other)
    except OSError:
        return False
