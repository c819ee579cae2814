"""Files of sound that jobs name for conditioners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_audio.inference.generation.condition_sounds import sounds_of
from stable_audio.inference.rendering.jobs import Job
from stable_audio.inference.rendering.recipe import InputFile
from stable_audio.model import DiffusionModel

MARK = "@"
"""Optional prefix of the name of a file, as in `--condition source=@mix.wav`."""


def with_files(model: DiffusionModel, job: Job) -> Job:
    """The job with absolute paths of its audio files.

    Raises:
        ValueError: a value is not the name of a file, or there is no such file.
    """
    values = {key: _absolute(value, key, job) for key, value, _ in sounds_of(model, job.conditioning)}
    return replace(job, conditioning={**job.conditioning, **values})


def files_of(model: DiffusionModel, job: Job) -> dict[str, InputFile]:
    """`id`, or `id.source` for a mix -> file, for the sounds of a job with absolute paths."""
    files: dict[str, InputFile] = {}
    for key, value, _ in sounds_of(model, job.conditioning):
        for name, path in value.items() if isinstance(value, Mapping) else [(None, value)]:
            files[key if name is None else f"{key}.{name}"] = InputFile.of(path)
    return files


def _absolute(value: Any, key: str, job: Job) -> Any:
    if isinstance(value, Mapping):
        return {name: _absolute(v, f"{key}.{name}", job) for name, v in value.items()}
    path = Path(value.removeprefix(MARK)).expanduser() if isinstance(value, str) else None
    if path is None or not path.is_file():
        raise ValueError(
            f"{job.source}: '{key}' is the name of an audio file, as in --condition {key}=@FILE, "
            f"found {value!r}" + ("" if path is None else ", which does not exist")
        )
    return str(path.resolve())
