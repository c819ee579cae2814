"""A copy of a model for use, with adapters, that shares everything else with the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from stable_audio.adapters.files import Adapter
from stable_audio.adapters.stack import AdapterStack, Gate

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """An adapter and how much of it is used, where.

    Attributes:
        strength: factor of its low-rank terms; at 0 it does nothing.
        gate: noise levels and layers of the backbone; the first clip of a batch tells the noise level.
    """

    adapter: Adapter
    strength: float = 1.0
    gate: Gate = Gate()  # noqa: RUF009 (frozen)


def with_adapters(model: Model, uses: Sequence[AdapterUse]) -> Model:
    """A copy of a diffusion model with adapters, which apply in their order, to generate with.

    The model stays as it is, and its tensors are shared. Where a noise level closes a gate, the copy computes
    all conditioning at every step.

    Raises:
        AdapterError: an adapter of another model.
    """
    source: Any = model
    layers = AdapterStack(source.backbone, source.conditioner).layers
    adapted = {name for use in uses for name in use.adapter.layers}
    copied_ids = {id(layer) for name, layer in layers.items() if name in adapted} | {id(source.backbone)}
    copied: Any = _copy(model, copied_ids, {})
    stack = AdapterStack(copied.backbone, copied.conditioner)
    gates: dict[int, Gate] = {}
    for use in uses:
        index = stack.add(use.adapter)
        stack.set_strength(index, backbone=use.strength, conditioner=use.strength)
        gates[index] = use.gate
    stack.gate(1.0, gates)
    if not all(gate.always for gate in gates.values()):
        _gate_by_noise(copied, stack, gates)
    return copied  # type: ignore[no-any-return]


def _gate_by_noise(model: Any, stack: AdapterStack, gates: dict[int, Gate]) -> None:
    """Set the gates before each call of the backbone, whose conditioning then depends on the noise level."""
    objective = model.objective

    def before(_: nn.Module, args: tuple[Any, ...]) -> None:
        t: Tensor = args[1]
        stack.gate(float(objective.alpha_sigma(t[0].float().cpu())[1]), gates)

    model.backbone.register_forward_pre_hook(before)
    model.backbone.prepare = lambda cond: cond


def _copy(module: nn.Module, ids: set[int], copies: dict[int, nn.Module]) -> nn.Module:
    """Copy modules with these ids and those that contain them; all others, and all tensors, are shared."""
    if id(module) not in copies:
        children = {name: child and _copy(child, ids, copies) for name, child in module._modules.items()}
        if id(module) not in ids and all(children[n] is c for n, c in module._modules.items()):
            copies[id(module)] = module
        else:
            new = type(module).__new__(type(module))
            new.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()}
            new.__dict__["_modules"] = children
            copies[id(module)] = new
    return copies[id(module)]
