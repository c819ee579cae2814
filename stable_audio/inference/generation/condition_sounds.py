"""Sounds in the metadata of clips, which conditioners read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stable_audio.conditioning.sound_values import SoundReader
from stable_audio.model import DiffusionModel
from stable_audio.types import Metadata


def fit_sounds(model: DiffusionModel, items: Iterable[Metadata], length: int) -> list[Metadata]:
    """Cut or pad every sound in the metadata that a conditioner reads to `length` samples of the model.

    Raises:
        ValueError: a value is no sound; the message has its id.
    """
    if not sound_conditioners(model):
        return list(items)
    return [{**item, **_fitted(model, item, length)} for item in items]


def sound_conditioners(model: DiffusionModel) -> dict[str, SoundReader]:
    """The conditioners that read sounds, by id."""
    conditioners = model.conditioner.conditioners.items() if model.conditioner is not None else ()
    return {key: part for key, part in conditioners if isinstance(part, SoundReader)}


def sounds_of(model: DiffusionModel, item: Metadata) -> list[tuple[str, Any, SoundReader]]:
    """(key of the metadata, value, conditioner) of the sounds that the item has."""
    sounds = []
    for name, conditioner in sound_conditioners(model).items():
        assert model.conditioner is not None
        key = name if name in item else model.conditioner.default_keys.get(name)
        if key is not None and key in item:
            sounds.append((key, item[key], conditioner))
    return sounds


def _fitted(model: DiffusionModel, item: Metadata, length: int) -> Metadata:
    sounds: Metadata = {}
    for key, value, conditioner in sounds_of(model, item):
        value = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
        try:
            sounds[key] = conditioner.fitted(
                value, round(length * conditioner.sample_rate / model.sample_rate)
            )
        except (ValueError, OSError) as error:
            raise ValueError(f"conditioning '{key}': {error}") from error
    return sounds
