"""Transforms as files record them: `{"type": NAME, "config": {...}}`, in the order of their application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from stable_audio.transforms import TRANSFORMS
from stable_audio.transforms.base import Transform
from stable_audio.wording import names

Record = Mapping[str, Any]


def transform_of(record: Record) -> Transform:
    """The transform that a record describes.

    Raises:
        ValueError: there is none of that type, or it takes no such settings.
    """
    kind = record.get("type")
    if kind not in TRANSFORMS:
        raise ValueError(f"the transform '{kind}' is unknown; known: {names(TRANSFORMS)}")
    try:
        return TRANSFORMS[kind](**(record.get("config") or {}))
    except TypeError as error:
        raise ValueError(f"the transform '{kind}' does not take these settings ({error})") from error


def apply_transforms(model: nn.Module, records: Sequence[Record]) -> None:
    """Apply what `records` describe to a model that is to be trained.

    Raises:
        ValueError: the model has nothing that one of them changes.
    """
    for record in records:
        _named(record, transform_of(record).apply, model)


def rebuild(model: nn.Module, records: Sequence[Record]) -> None:
    """Give a model for use what `records` describe, so that weights saved after them fit.

    Raises:
        ValueError: they belong to another model.
    """
    for record in records:
        _named(record, transform_of(record).rebuild, model)


def needed(records: Sequence[Record]) -> list[Record]:
    """Those without which all weights of a model cannot be loaded."""
    return [record for record in records if transform_of(record).names_weights]


def _named(record: Record, change: Any, model: nn.Module) -> None:
    try:
        change(model)
    except ValueError as error:
        raise ValueError(f"{record['type']}: {error}") from error
