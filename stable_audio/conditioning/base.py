"""What every conditioner offers: metadata values of one key -> a tensor and its mask."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.conditioning.values import AnyValue, ValueRule

Layout = Literal["vector", "tokens", "frames"]
"""What a conditioner gives per item: one vector (1 d), a sequence (l d), or channels over time (c n)."""


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

    @property
    def layout(self) -> Layout:
        """What `forward` gives; by default a sequence, which is a vector where it has one place only."""
        return "vector" if getattr(self, "max_length", None) == 1 else "tokens"

    def forward(self, values: list[Any], device: torch.device | str) -> tuple[Tensor, Tensor | None]:
        """b values -> (tensor (b l d), (b d) or (b c n); mask (b l) bool with True = valid, or None)."""
        raise NotImplementedError

    def value_rule(self) -> ValueRule:
        """What a value must be; `forward` is only given values that it lets pass."""
        return AnyValue()
