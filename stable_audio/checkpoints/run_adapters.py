"""The adapter that a run has trained, in the newest of its files, which may be a checkpoint in parts."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import LAST, Adapter, adapter_file, read_adapter
from stable_audio.adapters.passport import BaseModel, Passport
from stable_audio.adapters.spec import AdapterSpec
from stable_audio.adapters.use import AdapterUse
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.files import read_checkpoint
from stable_audio.checkpoints.format import ADAPTED_KEY, TRAINING_ENTRY
from stable_audio.checkpoints.shards import read_shards
from stable_audio.checkpoints.steps import step_of_inference
from stable_audio.stored.shards_folder import is_shards, newest_shards

log = logging.getLogger(__name__)


def newest_adapter(path: str | Path) -> Path:
    """The file with an adapter, or the checkpoint in parts that has it.

    Of a run's folder that is its `last.safetensors`, or its newest checkpoint in parts where that is of a
    later step, as in a run that goes on, or was killed.

    Args:
        path: a file, a checkpoint in parts, or the folder of a run.

    Raises:
        AdapterError: there is none.
    """
    path = Path(path).expanduser()
    if is_shards(path):
        return path
    if not path.is_dir():
        return adapter_file(path)
    last = path / LAST
    at = step_of_inference(last) if last.is_file() else -1
    newer = newest_shards(path, since=at + 1)
    if newer is not None and at >= 0:
        log.info("%s is of step %d; taking %s", last, at, newer)
    return newer or adapter_file(path)


def read_newest_adapter(path: str | Path) -> Adapter:
    """Read the adapter at `path`, see `newest_adapter`, as float32.

    Raises:
        AdapterError: no adapter, damaged, or of an unknown type.
    """
    file = newest_adapter(path)
    return _in_parts(file) if is_shards(file) else read_adapter(file)


def use_of(spec: AdapterSpec) -> AdapterUse:
    """A named adapter, read from the newest of its files.

    Raises:
        AdapterError: no adapter, or a damaged file.
    """
    return spec.use(read_newest_adapter)


def _in_parts(folder: Path) -> Adapter:
    try:
        adapter = read_checkpoint(folder).adapter
        content = read_shards(folder, wanted=lambda key: False, verify=False)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    if adapter is None:
        raise AdapterError(
            f"{folder}: is a checkpoint in parts of a run that trains no adapter; give that of a run which "
            "does, its folder, or the file of an adapter"
        )
    return replace(adapter, passport=_passport(content[TRAINING_ENTRY]))


def _passport(entry: dict[str, Any]) -> Passport:
    """What a training checkpoint says of the origin of its adapter."""
    adapted = entry.get(ADAPTED_KEY)
    base = BaseModel(**adapted) if adapted else None
    return Passport(base=base, step=int(entry["step"]), seed=entry.get("seed"))
