"""Whether a model is the one that an adapter was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.layers import UPDATES
from stable_audio.adapters.passport import BaseModel
from stable_audio.nn.hashing import comparable, in_threads, tensor_digest

PARTS = ("backbone", "conditioner")
"""Parts of a model that adapters change."""


def base_hash(model: nn.Module) -> str:
    """SHA-256 of the weights of backbone and conditioner by name, equal in float32 and in float16.

    Adapters that the model has do not count. The pretransform does not either: another decoder for the same
    latents leaves an adapter what it is.
    """
    tensors = base_tensors(model)
    names = sorted(tensors)
    digests = in_threads(lambda name: tensor_digest(comparable(tensors[name])), names)
    whole = hashlib.sha256()
    for name, digest in zip(names, digests):
        whole.update(f"{name} {tuple(tensors[name].shape)} {digest}\n".encode())
    return whole.hexdigest()


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The stored tensors of backbone and conditioner without those of adapters, by name."""
    tensors: dict[str, Tensor] = {}
    for part in PARTS:
        module = getattr(model, part, None)
        state: Mapping[str, Any] = module.state_dict() if isinstance(module, nn.Module) else {}
        tensors |= {
            f"{part}.{key}": value
            for key, value in state.items()
            if f".{UPDATES}." not in f".{key}" and isinstance(value, Tensor) and value.numel()
        }
    return tensors


def check_base(model: nn.Module, adapters: Iterable[Adapter], *, name: str, any_base: bool = False) -> None:
    """Refuse adapters that were trained on another model; those without a passport are taken as they are.

    Args:
        model: as it was loaded, before its weights are changed or held in less than 16 bits.
        name: of the model's file, for messages.
        any_base: take adapters of any model whose layers they fit.

    Raises:
        AdapterError: with the names of both models.
    """
    adapters = list(adapters)
    if any_base or not any(_base_of(adapter) for adapter in adapters):
        return
    check_hash(base_hash(model), adapters, name=name)


def check_hash(value: str, adapters: Iterable[Adapter], *, name: str) -> None:
    """As `check_base`, for a model with the hash `value`."""
    for adapter in adapters:
        base = _base_of(adapter)
        if base is not None and base.hash != value:
            raise AdapterError(
                f"{adapter.source}: was trained on {base.name} (hash {base.hash[:16]}), but this model is "
                f"{name} (hash {value[:16]}); use {base.name}, or add --any-base to use it on another model"
            )


def _base_of(adapter: Adapter) -> BaseModel | None:
    return adapter.passport.base if adapter.passport is not None else None
