"""Whether a model is the one that an adapter was trained on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.layers import UPDATES
from stable_audio.adapters.passport import BaseModel
from stable_audio.nn.hashing import comparable, in_threads, tensor_digest
from stable_audio.nn.held import HELD

log = logging.getLogger(__name__)

PARTS = ("backbone", "conditioner")
"""Parts of a model that adapters change."""

HASHED_IN = (torch.float16, torch.float32, torch.float64)
"""Types of weights from which their hash can be had; in fewer bits they are others."""

INDICES = (torch.int64, torch.int32, torch.bool)
"""Types of buffers that are no weights."""

_KNOWN = "_base_hash"
"""Attribute of a model with (state of its weights, their hash)."""


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


def known_base_hash(model: nn.Module) -> str:
    """`base_hash`, computed once for a model, and again after its weights have changed."""
    # An optimizer's step, a copy and a change of type all change one of these.
    state = [
        (id(t), t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version)
        for t in base_tensors(model, keep_vars=True).values()
    ]
    known = vars(model).get(_KNOWN)
    if known is None or known[0] != state:
        known = (state, base_hash(model))
        vars(model)[_KNOWN] = known
    return str(known[1])


def base_tensors(model: nn.Module, *, keep_vars: bool = False) -> dict[str, Tensor]:
    """The stored tensors of backbone and conditioner without those of adapters, by name.

    Args:
        keep_vars: as for `state_dict`.
    """
    tensors: dict[str, Tensor] = {}
    for part in PARTS:
        module = getattr(model, part, None)
        state: Mapping[str, Any] = {}
        if isinstance(module, nn.Module):
            state = module.state_dict(keep_vars=keep_vars)
        tensors |= {
            f"{part}.{key}": value
            for key, value in state.items()
            if f".{UPDATES}." not in f".{key}" and isinstance(value, Tensor) and value.numel()
        }
    return tensors


def check_base(model: nn.Module, adapters: Iterable[Adapter], *, name: str, any_base: bool = False) -> None:
    """Refuse adapters that were trained on another model; those without a passport are taken as they are.

    Weights that are held in another type than `HASHED_IN` may be those of any model: unless their hash is
    that of the adapter, there is a warning.

    Args:
        model: as it was loaded, before its weights are changed.
        name: of the model's file, for messages.
        any_base: take adapters of any model whose layers they fit.

    Raises:
        AdapterError: with the names of both models.
    """
    adapters = list(adapters)
    if any_base or not any(_base_of(adapter) for adapter in adapters):
        return
    try:
        check_hash(known_base_hash(model), adapters, name=name)
    except AdapterError as error:
        others = {t.dtype for t in base_tensors(model).values()} - {*HASHED_IN, *INDICES}
        if not others and all(map(_is_plain, model.modules())):
            raise
        log.warning("%s (not certain: weights in fewer bits have other hashes)", error)


def _is_plain(module: nn.Module) -> bool:
    return HELD not in module._modules


def check_hash(value: str, adapters: Iterable[Adapter], *, name: str) -> None:
    """As `check_base`, for a model with the hash `value`."""
    for adapter in adapters:
        base = _base_of(adapter)
        if base is not None and base.hash != value:
            raise AdapterError(
                f"{adapter.source}: was trained on {base.name} (hash {base.hash[:16]}), but this model is "
                f"{name} (hash {value[:16]}); use {base.name}, or add --any-base (any_base=True) to use it "
                "on another model"
            )


def _base_of(adapter: Adapter) -> BaseModel | None:
    return adapter.passport.base if adapter.passport is not None else None
