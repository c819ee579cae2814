"""Rotary position embedding (Su et al., 2021), half-split form, on the first channels of each head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stable_audio.nn.packed import Packing


class RotaryTables(NamedTuple):
    """cos and sin of the rotation angles, (n, rot_dim / 2) float32."""

    cos: Tensor
    sin: Tensor

    def at(self, positions: Tensor) -> RotaryTables:
        """The rows of these positions."""
        return RotaryTables(self.cos[positions], self.sin[positions])


class RotaryEmbedding(nn.Module):
    """Angles of position p and channel pair i: p * base^(-2i / rot_dim).

    The tables are computed once per forward pass of the whole network and shared by its layers, which costs
    less than a norm layer; caching them between calls would only add state that can become outdated.

    Args:
        dim: channels of a head that are rotated; odd values are rounded down to even.
    """

    inv_freq: Tensor

    def __init__(self, dim: int, *, base: float = 10000.0) -> None:
        super().__init__()
        exponents = torch.arange(0, dim - dim % 2, 2).float() / (dim - dim % 2)
        self.register_buffer("inv_freq", 1.0 / base**exponents)

    def forward(self, length: int, packing: Packing | None = None) -> RotaryTables:
        """Tables for `length` tokens; in a packed row, positions restart in every clip."""
        if packing is not None:
            return self(packing.places.longest).at(packing.places.position)
        positions = torch.arange(length, device=self.inv_freq.device, dtype=torch.float32)
        angles = positions[:, None] * self.inv_freq.float()[None, :]
        return RotaryTables(angles.cos(), angles.sin())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Exempt the frequencies from casts: half precision would spoil the angles of late positions."""
        inv_freq = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != torch.float32:
            self.inv_freq = inv_freq.float().to(self.inv_freq.device)
        return self


def rotary_dim(dim_heads: int) -> int:
    """Rotated channels of a head: half of them, but at least 32 as in published checkpoints.

    All channels of narrower heads are rotated.
    """
    return min(max(dim_heads // 2, 32), dim_heads)


def apply_rotary(x: Tensor, tables: RotaryTables) -> Tensor:
    """Rotate the first 2 * tables.cos.shape[-1] channels of each head of x (b n h d), in float32."""
    half = tables.cos.shape[-1]
    cos, sin = tables.cos[:, None, :], tables.sin[:, None, :]
    # A single split, because the gradients of three slices would each be as large as x.
    first, second, unrotated = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    first, second = first.float(), second.float()
    rotated = [(first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype)]
    return torch.cat([*rotated, unrotated], dim=-1)


def rotated(parts: Sequence[Tensor], tables: RotaryTables) -> tuple[Tensor, ...]:
    """`apply_rotary` to each tensor."""
    return tuple(apply_rotary(x, tables) for x in parts)
