"""A loaded model as shapes: a copy whose tensors have no values, to plan with."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from stable_audio.adapters.layers import forget_computed_weights, own_weight, updates_of
from stable_audio.model import DiffusionModel
from stable_audio.nn.copying import copied_alone


def shapes_of(model: DiffusionModel, *, thin_adapters: bool = False) -> DiffusionModel:
    """A copy of a model with backbone and autoencoder on the meta device; the model stays as it is.

    Conditioners are shared with the model.

    Args:
        thin_adapters: let adapters add low-rank products, as with `with_adapters(thin=True)`.
    """
    copied: Any = copy.copy(model)
    copied._modules = dict(model._modules)
    copied.computes_on = None
    seen: dict[int, Any] = {}
    copied.backbone = _on_meta(model.backbone, seen)
    if model.pretransform is not None:
        copied.pretransform = _on_meta(model.pretransform, seen)
    forget_computed_weights(copied.backbone)
    if thin_adapters:
        for layer, update in updates_in(copied):
            update.compute_by_activations(own_weight(layer))
    return copied  # type: ignore[no-any-return]


def updates_in(model: DiffusionModel) -> list[tuple[nn.Module, Any]]:
    """(layer, update) of the adapters in the backbone."""
    return [(layer, u) for layer in model.backbone.modules() for u in updates_of(layer).values()]


def _on_meta(module: nn.Module, seen: dict[int, Any]) -> nn.Module:
    """A copy of a module and all below it; what is shared within it stays shared."""
    if id(module) not in seen:
        new = seen[id(module)] = copied_alone(module)
        for tensors in (new._parameters, new._buffers):
            for name, value in tensors.items():
                tensors[name] = value if value is None else seen.setdefault(id(value), _meta(value))
        for name, child in new._modules.items():
            new._modules[name] = child if child is None else _on_meta(child, seen)
    return seen[id(module)]  # type: ignore[no-any-return]


def _meta(value: Tensor) -> Tensor:
    empty = value.detach().to("meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty
