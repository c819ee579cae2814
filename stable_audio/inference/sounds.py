"""Sounds that conditioners read: cut to the length of the clip, and as files on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_audio.conditioning.sounds import PretransformConditioner
from stable_audio.inference.jobs import Job
from stable_audio.inference.recipe import InputFile
from stable_audio.model import DiffusionModel
from stable_audio.types import Metadata

MARK = "@"
"""May stand before the name of a file, as in `--condition source=@mix.wav`."""


def fit_sounds(model: DiffusionModel, items: Iterable[Metadata], length: int) -> list[Metadata]:
    """The metadata with every sound that a conditioner reads cut or padded to `length` samples of the model.

    Raises:
        ValueError: a value that is no sound, with its id.
    """
    return [{**item, **_fitted(model, item, length)} for item in items]


def sound_conditioners(model: DiffusionModel) -> dict[str, PretransformConditioner]:
    """The conditioners that read sounds, by id."""
    all_of_them = model.conditioner.conditioners.items() if model.conditioner is not None else ()
    return {key: made for key, made in all_of_them if isinstance(made, PretransformConditioner)}


def with_files(model: DiffusionModel, job: Job) -> Job:
    """The job with absolute paths of the audio files that it names.

    Raises:
        ValueError: a value that is not the name of a file, or names none.
    """
    values = {key: _absolute(value, key, job) for key, value, _ in _sounds(model, job.conditioning)}
    return replace(job, conditioning={**job.conditioning, **values})


def files_of(model: DiffusionModel, job: Job) -> dict[str, InputFile]:
    """`id`, or `id.source` for a mix -> file, for the sounds of a job with absolute paths."""
    found: dict[str, InputFile] = {}
    for key, value, _ in _sounds(model, job.conditioning):
        for name, path in value.items() if isinstance(value, Mapping) else [(None, value)]:
            found[key if name is None else f"{key}.{name}"] = InputFile.of(path)
    return found


def _sounds(model: DiffusionModel, item: Metadata) -> list[tuple[str, Any, PretransformConditioner]]:
    """(key of the metadata, value, conditioner) of the sounds that the item has."""
    found = []
    for name, conditioner in sound_conditioners(model).items():
        assert model.conditioner is not None
        key = name if name in item else model.conditioner.default_keys.get(name)
        if key is not None and key in item:
            found.append((key, item[key], conditioner))
    return found


def _fitted(model: DiffusionModel, item: Metadata, length: int) -> Metadata:
    made: Metadata = {}
    for key, value, conditioner in _sounds(model, item):
        value = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        try:
            made[key] = conditioner.fitted(value, round(length * conditioner.sample_rate / model.sample_rate))
        except (ValueError, OSError) as error:
            raise ValueError(f"conditioning '{key}': {error}") from error
    return made


def _absolute(value: Any, key: str, job: Job) -> Any:
    if isinstance(value, Mapping):
        return {name: _absolute(v, f"{key}.{name}", job) for name, v in value.items()}
    path = Path(value.removeprefix(MARK)).expanduser() if isinstance(value, str) else None
    if path is None or not path.is_file():
        raise ValueError(
            f"{job.source}: '{key}' is the name of an audio file, as in --condition {key}=@FILE, "
            f"found {value!r}" + ("" if path is None else ", which is not there")
        )
    return str(path.resolve())
