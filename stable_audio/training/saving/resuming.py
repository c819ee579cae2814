"""The checkpoint that a run continues from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_audio.checkpoints import resolve
from stable_audio.checkpoints.format import TRAINING_ENTRY, TRANSFORMS_KEY
from stable_audio.config import ModelConfig
from stable_audio.stored.shards_folder import is_shards
from stable_audio.training.options import RunOptions
from stable_audio.training.saving.continuing import check_changes
from stable_audio.training.saving.folder import holds_a_run
from stable_audio.training.saving.recovery import load_training_file, newest_whole
from stable_audio.transforms.recorded import Record

log = logging.getLogger(__name__)

_WITHOUT_THE_CHECKPOINT = (
    "to start from the beginning, leave --ckpt-path out and choose a --name that no run has"
)


@dataclass(frozen=True)
class Resumed:
    """The training checkpoint that a run continues from, and its content."""

    path: Path
    content: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Number of steps of the run at the checkpoint."""
        return int(self.content[TRAINING_ENTRY]["step"])

    @property
    def transforms(self) -> list[Record]:
        """What its run has done to its model, which is done again."""
        return list(self.content[TRAINING_ENTRY].get(TRANSFORMS_KEY, ()))


def resumed_checkpoint(options: RunOptions, config: ModelConfig) -> Resumed | None:
    """The checkpoint to continue from; None for a new run.

    Raises:
        CheckpointError: it cannot be read, or its run cannot continue with this config.
    """
    path, content = _newest(options)
    if path is None:
        return None
    check_changes(config, content.get("model_config"), path)
    return Resumed(path, content)


def continues(options: RunOptions, resumed: Resumed | None) -> bool:
    """Whether the run continues in the folder of the checkpoint."""
    inside = resumed is not None and resumed.path.resolve().is_relative_to(options.folder.resolve())
    return options.recover or options.requeue or inside


def _newest(options: RunOptions) -> tuple[Path | None, Mapping[str, Any]]:
    """The training checkpoint to continue, and its content."""
    if options.ckpt_path:
        path = Path(options.ckpt_path).expanduser()
        folder = path.is_dir() and not is_shards(path)
        newest = newest_whole(path, advice=_WITHOUT_THE_CHECKPOINT) if folder else None
        return newest if newest is not None else _checkpoint_at(path)
    if not (options.recover or options.requeue):
        return None, {}
    newest = newest_whole(options.folder, advice=_without_recovery(options))
    if newest is None and (sign := holds_a_run(options.folder)) is not None:
        log.warning(
            "%s has no checkpoint to continue from (only %s): the run starts from the beginning",
            options.folder,
            sign,
        )
    return newest if newest is not None else (None, {})


def _without_recovery(options: RunOptions) -> str:
    """How to start from the beginning where no checkpoint in the run's folder can be continued."""
    given = [flag for flag, on in (("--recover", options.recover), ("--requeue", options.requeue)) if on]
    return (
        f"to start from the beginning, give --overwrite in place of {' and '.join(given)}, or choose another "
        "--name"
    )


def _checkpoint_at(source: Path) -> tuple[Path, Mapping[str, Any]]:
    path = resolve(source)
    return path, load_training_file(path)
