"""Give weights that have no part in a step a gradient of 0, so that all processes have the same gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

Place = tuple[nn.Module, str]
"""A module and the name of a parameter of it."""


def join_weights(units: Sequence[nn.Module]) -> None:
    """Let the output of each unit depend on all of its trained weights, by a gradient of 0.

    A unit that is called several times in a step, or whose weights all have a part in it, gets the sum: zeros
    change no gradient.

    Args:
        units: modules, of which inner ones come first; a weight counts for the first unit that has it.
    """
    joined: set[int] = set()
    for unit in units:
        places = [place for place in _trained(unit) if id(place[0]._parameters[place[1]]) not in joined]
        joined.update(id(owner._parameters[name]) for owner, name in places)
        if places:
            unit.register_forward_hook(_Join(places))


class _Join:
    """Joins the weights at `places` to the first tensor in a module's output that has a gradient."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output
        leaves, structure = tree_flatten(output)
        index = next(
            (i for i, v in enumerate(leaves) if isinstance(v, Tensor) and v.is_floating_point()), None
        )
        if index is None:
            return output
        # Looked up now: while a module computes, weights that are split are whole.
        weights = [owner._parameters[name] for owner, name in self.places]
        leaves[index] = _WithZeros.apply(leaves[index], *weights)
        return tree_unflatten(leaves, structure)


class _WithZeros(torch.autograd.Function):
    """x, with gradients of 0 for weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.like = [(w.shape, w.dtype, w.device) for w in weights]  # not the weights, which may be let go of
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        zeros = (torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.like)
        return (gradient, *zeros)


def _trained(module: nn.Module) -> Iterator[Place]:
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.requires_grad:
                yield part, name
