"""Gradient checkpointing: the backward pass recomputes activations instead of storing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointed(nn.Module):
    """A module whose `compute` can be run again in the backward pass; subclasses implement it.

    Attributes:
        gradient_checkpointing: whether to recompute; set it with `set_gradient_checkpointing`.

    Nothing is recomputed under `torch.no_grad`, so that inference costs nothing more.
    """

    gradient_checkpointing: bool = False

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing:
            return recomputed(self.compute, *args, **kwargs)
        return self.compute(*args, **kwargs)


def recomputed(compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`compute(*args, **kwargs)`, whose activations the backward pass recomputes."""
    if torch.is_grad_enabled():
        return checkpoint(compute, *args, use_reentrant=False, **kwargs)
    return compute(*args, **kwargs)


def set_gradient_checkpointing(module: nn.Module, enabled: bool = True) -> None:
    """Trade compute for memory in every `Checkpointed` part of `module`; `enabled` False undoes it."""
    for part in module.modules():
        if isinstance(part, Checkpointed):
            part.gradient_checkpointing = enabled
