"""Gradient checkpointing: the backward pass recomputes activations instead of storing them.

Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Gt
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

EveryBlock = bool | Annotated[int, Gt(0)]
"""Which blocks recompute: True all of them, False none, n the first of every n, in the order of the model."""


class Switch(Protocol):
    """What `set_gradient_checkpointing` turns on and off: a block."""

    gradient_checkpointing: bool


class Checkpointed(nn.Module):
    """A module whose `compute` can be run again in the backward pass; subclasses implement it.

    Attributes:
        gradient_checkpointing: whether to recompute; set it with `set_gradient_checkpointing`.

    Nothing is recomputed under `torch.no_grad`, so that inference costs nothing more.
    """

    gradient_checkpointing: bool = False

    @property
    def switches(self) -> Sequence[Switch]:
        """The blocks that recompute by themselves: this module, or the parts of one that wraps several."""
        return [self]

    @property
    def units(self) -> Sequence[nn.Module]:
        """The modules that are called one by one: this one, or the parts of one that wraps several."""
        return [self]

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing:
            return recomputed(self.compute, *args, **kwargs)
        return self.compute(*args, **kwargs)


def recomputed(compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`compute(*args, **kwargs)`, whose activations the backward pass recomputes."""
    if torch.is_grad_enabled():
        return checkpoint(_in_same_modes(compute), *args, use_reentrant=False, **kwargs)
    return compute(*args, **kwargs)


def _in_same_modes(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute` in the function modes of now, such as that of a plan of memory, which autograd turns off in
    the backward pass."""
    modes = _get_current_function_mode_stack()
    if not modes:
        return compute

    def again(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            return compute(*args, **kwargs)

    return again


def set_gradient_checkpointing(module: nn.Module, every: EveryBlock = True) -> None:
    """Trade compute for memory in the `Checkpointed` parts of `module`.

    Args:
        every: True: in all of them; False: in none; n: in the first of every n, so that the others keep their
            activations and about 1 / n of the forward pass is computed twice.

    Raises:
        ValueError: n is below 1.
    """
    if every is not False and every < 1:
        raise ValueError(f"gradient_checkpointing must be true, false, or n from 1 on, found {every}")
    parts = [part for part in module.modules() if isinstance(part, Checkpointed)]
    for index, switch in enumerate(switch for part in parts for switch in part.switches):
        switch.gradient_checkpointing = every is not False and index % int(every) == 0
