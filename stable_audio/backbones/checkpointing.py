"""Modules that can recompute their activations in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointed(nn.Module):
    """A module whose work is done in `compute`, recomputed in the backward pass when `checkpointing` is set.

    Nothing is recomputed under `torch.no_grad`, so inference never pays for it.
    """

    checkpointing: bool = False

    def compute(self, *args: Any) -> Any:
        raise NotImplementedError

    def forward(self, *args: Any) -> Any:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.compute, *args, use_reentrant=False)
        return self.compute(*args)


def set_checkpointing(module: nn.Module, enabled: bool) -> None:
    """Switch every `Checkpointed` module below `module`."""
    for part in module.modules():
        if isinstance(part, Checkpointed):
            part.checkpointing = enabled
