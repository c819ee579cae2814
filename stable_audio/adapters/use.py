"""A copy of a model for use, with adapters, that shares everything else with the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import BACKBONE, Adapter
from stable_audio.adapters.layers import updates_of
from stable_audio.adapters.patterns import unmatched
from stable_audio.adapters.stack import AdapterStack, Gate
from stable_audio.nn.copying import copied_alone, is_compiled
from stable_audio.nn.transfer import first_value
from stable_audio.types import Conditioning
from stable_audio.wording import names

Model = TypeVar("Model", bound=nn.Module)
_GATED = "prepare"
"""Attribute of a backbone whose gates follow the noise level, in place of its method."""


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """An adapter and how much of it is used, where.

    Attributes:
        strength: factor of its low-rank terms; at 0 it does nothing.
        gate: noise levels and layers of the backbone; the first clip of a batch tells the noise level.

    Raises:
        AdapterError: the gate has a layer filter with a pattern that names none of the adapter's layers.
    """

    adapter: Adapter
    strength: float = 1.0
    gate: Gate = Gate()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        layers = [name.removeprefix(BACKBONE) for name in self.adapter.layers if name.startswith(BACKBONE)]
        if (pattern := unmatched(layers, self.gate.layer_filter)) is None:
            return
        called = f"these are called {names(layers, 4)}, and numbers are given as in layers.[0-11]"
        raise AdapterError(
            f"{self.adapter.source}: its layer filter (LAYERS of --adapter) has '{pattern}', which is part "
            "of the name of no layer of the backbone that this adapter changes; "
            + (called if layers else "it changes the conditioner alone, so leave the filter out")
        )


def with_adapters(model: Model, uses: Sequence[AdapterUse], *, thin: bool = False) -> Model:
    """A copy of a diffusion model with adapters, which apply in their order, to generate with.

    The model stays as it is, and its tensors are shared. A model that has adapters already keeps them, and
    these apply after them. A copy with noise levels at which a gate is closed is for one thread at a time.

    Args:
        thin: let layers with one adapter add low-rank products to their outputs, see `activations`, which
            takes more time; otherwise they store their updated weights, which takes as much memory again.

    Raises:
        AdapterError: an adapter of another model; or the model is a copy whose gates close at noise levels.
    """
    source: Any = model
    if _GATED in vars(source.backbone):
        raise AdapterError(
            "this copy has adapters for some noise levels only and takes no more; give all adapters of a "
            "model to one call of with_adapters"
        )
    layers = AdapterStack(source.backbone, source.conditioner).layers
    adapted = {name for use in uses for name in use.adapter.layers}
    changed = [layer for name, layer in layers.items() if name in adapted]
    copied_ids = {id(m) for layer in changed for m in (layer, updates_of(layer))} | {id(source.backbone)}
    copied: Any = _copy(model, copied_ids, {})
    stack = AdapterStack(copied.backbone, copied.conditioner)
    gates: dict[int, Gate] = {}
    for use in uses:
        gates[add_use(stack, use, by_activations=thin)] = use.gate
    if not all(gate.always for gate in gates.values()):
        _gate_by_noise(copied, stack, gates)
    return copied  # type: ignore[no-any-return]


def add_use(stack: AdapterStack, use: AdapterUse, *, by_activations: bool = False) -> int:
    """Add an adapter with its strength, and its gate as at the noise level 1; returns its index.

    Args:
        by_activations: see `AdapterStack.add`.

    Raises:
        AdapterError: an adapter of another model.
    """
    index = stack.add(use.adapter, by_activations=by_activations)
    stack.set_strength(index, backbone=use.strength, conditioner=use.strength)
    stack.gate(1.0, {index: use.gate})
    return index


class _ByGates:
    """Conditioning that is prepared once for each set of open gates, which layers that prepare it may have.

    Attributes:
        versions: which gates are open -> what was prepared with them.
    """

    def __init__(self, cond: Conditioning) -> None:
        self.cond = cond
        self.versions: dict[tuple[bool, ...], Conditioning] = {}


def _gate_by_noise(model: Any, stack: AdapterStack, gates: dict[int, Gate]) -> None:
    """Set the gates before each call of the backbone, and give it the conditioning that belongs to them."""
    objective, backbone = model.objective, model.backbone
    prepare = type(backbone).prepare
    latest: tuple[bool, ...] = ()

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal latest
        x, t, cond, *others = args
        sigma = float(objective.alpha_sigma(torch.tensor(first_value(t)))[1])
        state = tuple(gate.open_at(sigma) for gate in gates.values())
        if state != latest:
            stack.gate(sigma, gates)
            latest = state
        if isinstance(cond.prepared, _ByGates):
            versions = cond.prepared.versions
            if state not in versions:
                versions[state] = prepare(backbone, cond.prepared.cond)
            cond = versions[state]
        return (x, t, cond, *others)

    backbone.register_forward_pre_hook(before)
    setattr(backbone, _GATED, lambda cond: cond.replace(prepared=_ByGates(cond)))


def _copy(module: nn.Module, ids: set[int], copies: dict[int, nn.Module]) -> nn.Module:
    """Copy modules with these ids and those that contain them; all others, and all tensors, are shared."""
    if id(module) not in copies:
        children = {name: child and _copy(child, ids, copies) for name, child in module._modules.items()}
        if id(module) not in ids and all(children[n] is c for n, c in module._modules.items()):
            copies[id(module)] = module
        else:
            new = copied_alone(module)
            new.__dict__["_modules"] = children
            copies[id(module)] = new
            if is_compiled(module):
                new.compile()
    return copies[id(module)]
