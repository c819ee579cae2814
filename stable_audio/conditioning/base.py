"""What every conditioner offers: metadata values of one key -> a tensor and its mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Conditioner(nn.Module):
    """Base of the conditioners.

    Args:
        dim: features that the conditioner computes.
        output_dim: features that it returns; a linear layer `proj_out` bridges them when they differ or
            when `project_out` is set.
    """

    def __init__(self, *, dim: int, output_dim: int, project_out: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.output_dim = output_dim
        self.proj_out: nn.Module = (
            nn.Linear(dim, output_dim) if dim != output_dim or project_out else nn.Identity()
        )

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
        """b values -> (tensor (b l d), (b d) or (b c n); mask (b l) bool with True = valid, or None)."""
        raise NotImplementedError
