"""Layers whose weight is updated by adapters, and which keep the names of their own weights."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.adapters.updates import WeightUpdate

ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers that adapters change. The kernels of convolutions are flattened to (out, in * kernel)."""

UPDATES = "weight_updates"
"""Name of the part of a layer that holds its updates."""


def adaptable_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of all layers of a module that adapters can change.

    Layers whose weight is computed from other tensors, as with weight norm, are not among them.
    """
    for name, layer in module.named_modules():
        weight = layer._parameters.get("weight") if isinstance(layer, ADAPTABLE) else None
        if weight is not None:
            yield name, layer


def own_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer without updates, as a matrix (out, in)."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight.flatten(1)


def add_update(layer: nn.Module, name: str, update: WeightUpdate) -> None:
    """Add an update, which applies after those that the layer has already."""
    if not isinstance(layer, _Updated):
        # As torch.nn.utils.parametrize does, but the weight stays where checkpoints have it.
        kind: Any = type(layer)
        layer.__class__ = _with_updates(kind)
        layer.add_module(UPDATES, nn.ModuleDict())
    updates_of(layer)[name] = update.to(own_weight(layer).device).train(layer.training)


def remove_update(layer: nn.Module, name: str) -> None:
    """Remove an update; without any, the layer is of its own class again."""
    updates = updates_of(layer)
    del updates[name]
    layer.__dict__.pop("_effective", None)
    if not len(updates):
        del layer._modules[UPDATES]
        layer.__class__ = type(layer).__mro__[2]


def updates_of(layer: nn.Module) -> nn.ModuleDict:
    """The updates of a layer by name, in their order; without any, an empty one that is not the layer's."""
    updates = layer._modules.get(UPDATES)
    return updates if isinstance(updates, nn.ModuleDict) else nn.ModuleDict()


class _Updated:
    """Mixed into the class of a layer: `weight` is the updated one.

    Without gradients it is computed once, until anything that it depends on changes.
    """

    @property
    def weight(self: Any) -> Tensor:
        weight: Tensor = self._parameters["weight"]
        updates = [u for u in self._modules[UPDATES].values() if u.active]
        if not updates:
            return weight
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return _updated(weight, updates)
        state = _state(weight, updates)
        stored = self.__dict__.get("_effective")
        if stored is None or stored[0] != state:
            stored = (state, _updated(weight, updates))
            self.__dict__["_effective"] = stored
        return stored[1]


def _updated(weight: Tensor, updates: list[Any]) -> Tensor:
    matrix = weight.flatten(1)
    for update in updates:
        matrix = update(matrix)
    return matrix.view_as(weight)


def _state(weight: Tensor, updates: list[Any]) -> tuple[Any, ...]:
    """What a computed weight depends on."""
    # Not parameters() and buffers(), which would take longer than a small layer.
    tensors = [weight, *(t for u in updates for t in (*u._parameters.values(), *u._buffers.values()))]
    versions = [(id(t), t.data_ptr(), t.dtype, 0 if t.is_inference() else t._version) for t in tensors]
    return (*versions, *((u.strength, u.scaling) for u in updates))


@functools.cache
def _with_updates(cls: Any) -> type[nn.Module]:
    return type(cls.__name__, (_Updated, cls), {})
