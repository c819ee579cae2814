"""Layers whose weight is updated by adapters, and which keep the names of their own weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.adapters.activations import COMPUTED, by_activations, conv_output, is_linear, linear_output
from stable_audio.adapters.updates import WeightUpdate, state_of
from stable_audio.nn.held import HELD, matrix_parts, widened
from stable_audio.nn.mixing import mix_in, plain_class, take_out

ADAPTABLE = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Layers that adapters change. The kernels of convolutions are flattened to (out, in * kernel)."""

UPDATES = "weight_updates"
"""Name of the part of a layer that holds its updates."""


def adaptable_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of all layers of a module that adapters can change.

    Layers whose weight is computed from other tensors, as with weight norm, are not among them.
    """
    for name, layer in module.named_modules():
        if not isinstance(layer, ADAPTABLE):
            continue
        if layer._parameters.get("weight") is not None or HELD in layer._modules:
            yield name, layer


def own_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer without updates, as a matrix (out, in)."""
    parts = matrix_parts(layer)
    return parts[0].flatten(1) if len(parts) == 1 else widened(parts, torch.float32)


def own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    """The parameters of a layer without those of its updates."""
    return [p for p in layer._parameters.values() if p is not None]


def add_update(layer: nn.Module, name: str, update: WeightUpdate) -> None:
    """Add an update, which applies after those that the layer has already."""
    if not isinstance(layer, _Updated):
        mix_in(layer, _Updated)  # the weight stays where checkpoints have it
        layer.add_module(UPDATES, nn.ModuleDict())
    updates_of(layer)[name] = update.to(own_weight(layer).device).train(layer.training)


def remove_update(layer: nn.Module, name: str) -> None:
    """Remove an update; without any, the layer is of its own class again."""
    updates = updates_of(layer)
    del updates[name]
    layer.__dict__.pop("_effective", None)
    if not len(updates):
        del layer._modules[UPDATES]
        take_out(layer, _Updated)


def updates_of(layer: nn.Module) -> nn.ModuleDict:
    """The updates of a layer by name, in their order; without any, an empty one that is not the layer's."""
    updates = layer._modules.get(UPDATES)
    return updates if isinstance(updates, nn.ModuleDict) else nn.ModuleDict()


class _Updated:
    """Mixed into the class of a layer: `weight` is the updated one.

    Without gradients it is computed once, until anything that it depends on changes. A layer whose only
    update is `by_activations` does not need it, where its class allows that.
    """

    @property
    def weight(self: Any) -> Tensor:
        weight = self._parameters.get("weight")
        if weight is None:
            weight = own_weight(self)
        updates = [u for u in self._modules[UPDATES].values() if u.active]
        # Of a convolution `_conv_forward` adds the update.
        if not updates or (not is_linear(plain_class(self)) and _update_of_output(self) is not None):
            return weight  # type: ignore[no-any-return]
        if torch.is_grad_enabled() or self.training or torch.compiler.is_compiling():
            return _updated(weight, updates)
        state = state_of([weight], updates)
        stored = self.__dict__.get("_effective")
        if stored is None or stored[0] != state:
            stored = (state, _updated(weight, updates))
            self.__dict__["_effective"] = stored
        return stored[1]  # type: ignore[no-any-return]

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer: Any = super()
        if is_linear(plain_class(self)):
            if (update := _update_of_output(self)) is not None:
                return linear_output(self, x, update)
            if HELD in self._modules:
                return F.linear(x, self.weight.to(x.dtype), self.bias)
        return layer.forward(x, *args, **kwargs)  # type: ignore[no-any-return]

    def _conv_forward(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer: Any = super()
        if (update := _update_of_output(self)) is None:
            return layer._conv_forward(x, weight, bias)  # type: ignore[no-any-return]
        return conv_output(self, layer._conv_forward, x, update)


def _update_of_output(layer: nn.Module) -> WeightUpdate | None:
    """The only active update of a layer, if its output is to be had without the updated weight."""
    active = [u for u in updates_of(layer).values() if u.active]
    if len(active) != 1 or not active[0].by_activations:
        return None
    update: Any = active[0]
    return update if by_activations(plain_class(layer), layer, update.rescaling) else None


def forget_computed_weights(module: nn.Module) -> None:
    """Free what layers of `module` have computed from their weights and updates; it is computed again when
    needed."""
    for layer in module.modules():
        layer.__dict__.pop("_effective", None)
        layer.__dict__.pop(COMPUTED, None)


def _updated(weight: Tensor, updates: list[Any]) -> Tensor:
    matrix = weight.flatten(1)
    for update in updates:
        matrix = update(matrix)
    return matrix.view_as(weight)
