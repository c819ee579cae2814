"""Weights that are an adapter and name the model that it belongs to: find that model, and add the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from stable_audio.adapters import AdapterError, AdapterStack
from stable_audio.adapters.base import base_hash, check_hash
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.passport import BaseModel
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.files import read_checkpoint, resolve
from stable_audio.checkpoints.stored_weights import StoredWeights
from stable_audio.stored.hub_names import parse


def with_base(stored: StoredWeights, *, use_ema: bool = True) -> StoredWeights:
    """The weights of a file; of an adapter's file those of its base, together with the adapter.

    Raises:
        CheckpointError: the base is not there.
    """
    if stored.adapter is None or stored.base is not None:
        return stored
    base = _base(stored)
    path = next(_places(base, stored.path), None)
    if path is None:
        raise CheckpointError(
            f"{stored.path}: is an adapter of {base.path}, which is not there; put that file back, or beside "
            f"this one as {Path(base.path).name}, or load the model and add this file with --adapter"
        )
    found = with_base(read_checkpoint(path, use_ema=use_ema), use_ema=use_ema)
    return replace(stored, adapted=found, config=stored.config or found.config)


def other_average(stored: StoredWeights) -> StoredWeights | None:
    """The base of an adapter with its weights as trained where it was read with averaged ones, and the other
    way round; None: its file has but one of them."""
    assert stored.adapted is not None
    averaged = stored.adapted.weights == "ema"
    other = with_base(read_checkpoint(stored.adapted.path, use_ema=not averaged), use_ema=not averaged)
    return None if other.weights == stored.adapted.weights else other


def is_base(model: nn.Module, stored: StoredWeights) -> bool:
    """Whether a model has the weights that the adapter in a file was trained on."""
    return _base(stored).hash == base_hash(model)


def require_base(model: nn.Module, stored: StoredWeights) -> None:
    """Refuse a base with other weights than the adapter in a file was trained on.

    Raises:
        CheckpointError: with the names of both.
    """
    assert stored.adapter is not None
    name = str(stored.adapted.path) if stored.adapted is not None else "another"
    try:
        check_hash(base_hash(model), [stored.adapter], name=name)
    except AdapterError as error:
        raise CheckpointError(str(error)) from error


def merge_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Write the weights with an adapter at full strength into a diffusion model.

    Raises:
        CheckpointError: it does not fit the model.
    """
    backbone, conditioner = getattr(model, "backbone", None), getattr(model, "conditioner", None)
    if not isinstance(backbone, nn.Module):
        raise CheckpointError(
            f"{adapter.source}: is an adapter of a diffusion model, but the config describes a "
            f"{type(model).__name__}"
        )
    stack = AdapterStack(backbone, conditioner)
    try:
        stack.add(adapter)
    except AdapterError as error:
        raise CheckpointError(str(error)) from error
    stack.merge()


def _base(stored: StoredWeights) -> BaseModel:
    passport = stored.adapter.passport if stored.adapter is not None else None
    assert passport is not None
    assert passport.base is not None
    return passport.base


def _places(base: BaseModel, referring: Path) -> Iterator[Path]:
    yield from BaseFile(base.path, base.hash).candidates(referring)
    if parse(base.path) is not None:
        yield resolve(base.path)
