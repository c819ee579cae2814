"""Gradient checkpointing: the backward pass recomputes activations instead of storing them.

Chen et al. 2016, arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal, Protocol

import torch
from annotated_types import Gt
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from stable_audio.nn.kept_results import selective_contexts

Selective = Literal["elementwise"]
"""Recompute elementwise results alone, and keep those of products, attention and convolutions."""

ELEMENTWISE: Selective = "elementwise"

Recomputation = bool | Selective | Annotated[int, Gt(0)]
"""What the backward pass recomputes: True all blocks, False nothing, n the first of every n blocks in the
order of the model, "elementwise" the elementwise results of all blocks."""


def in_words(what: Recomputation) -> str:
    """What is recomputed, for a list of settings; empty for nothing."""
    if what is False:
        return ""
    if what is True:
        return "gradient checkpointing"
    of_blocks = f"in the first of every {what} blocks"
    return f"gradient checkpointing {'of elementwise results' if what == ELEMENTWISE else of_blocks}"


class Switch(Protocol):
    """What `set_gradient_checkpointing` turns on and off: a block."""

    gradient_checkpointing: bool | Selective


class Checkpointed(nn.Module):
    """A module whose `compute` can be run again in the backward pass; subclasses implement it.

    Attributes:
        gradient_checkpointing: whether to recompute, or what; set it with `set_gradient_checkpointing`.

    Nothing is recomputed under `torch.no_grad`, so that inference costs nothing more.
    """

    gradient_checkpointing: bool | Selective = False

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
            return recomputed(self.compute, self.gradient_checkpointing, *args, **kwargs)
        return self.compute(*args, **kwargs)


def recomputed(compute: Callable[..., Any], what: bool | Selective, *args: Any, **kwargs: Any) -> Any:
    """`compute(*args, **kwargs)`, whose activations the backward pass recomputes.

    Args:
        compute: a function of tensors.
        what: True: all of them; "elementwise": those that are no products, see `nn.kept_results`.
    """
    if not torch.is_grad_enabled():
        return compute(*args, **kwargs)
    again = _in_same_modes(compute)
    if what != ELEMENTWISE:
        return checkpoint(again, *args, use_reentrant=False, **kwargs)
    return checkpoint(again, *args, use_reentrant=False, context_fn=selective_contexts, **kwargs)


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


def set_gradient_checkpointing(module: nn.Module, what: Recomputation = True) -> None:
    """Trade compute for memory in the `Checkpointed` parts of `module`.

    Args:
        what: True: all of them recompute; False: none; n: the first of every n, so that the others keep their
            activations and about 1 / n of the forward pass is computed twice; "elementwise": all of them,
            but for products, attention and convolutions, whose results they keep.

    Raises:
        ValueError: n is below 1, or another word.
    """
    every = 1 if isinstance(what, str) else int(what)
    if (isinstance(what, str) and what != ELEMENTWISE) or (what is not False and every < 1):
        raise ValueError(
            f'gradient_checkpointing must be true, false, "{ELEMENTWISE}", or n from 1 on, found {what}'
        )
    parts = [part for part in module.modules() if isinstance(part, Checkpointed)]
    for index, switch in enumerate(switch for part in parts for switch in part.switches):
        recomputes = what is not False and index % every == 0
        switch.gradient_checkpointing = ELEMENTWISE if recomputes and isinstance(what, str) else recomputes
