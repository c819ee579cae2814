"""Rotary position embedding (Su et al., 2021), half-split form, on the first channels of each head."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function

from stable_audio.nn.gradients import is_only_computed, writes_gradient
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
    """Rotate the first 2 * tables.cos.shape[-1] channels of each head of x (b n h d), in float32 at least."""
    if writes_gradient(x):
        return _Rotation.apply(x.unsqueeze(2), *tables, (True,))[0]
    cos, sin = tables.cos[:, None, :], tables.sin[:, None, :]
    half, wide = cos.shape[-1], torch.promote_types(x.dtype, torch.float32)
    # A single split, because the gradients of three slices would each be as large as x.
    first, second, unrotated = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    first, second = first.to(wide), second.to(wide)
    rotated = [(first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype)]
    return torch.cat([*rotated, unrotated], dim=-1)


def rotated(parts: Sequence[Tensor], tables: RotaryTables) -> tuple[Tensor, ...]:
    """`apply_rotary` to each tensor."""
    return tuple(apply_rotary(x, tables) for x in parts)


def rotated_parts(x: Tensor, tables: RotaryTables, which: tuple[bool, ...]) -> tuple[Tensor, ...]:
    """The parts x[:, :, i] of x (b n parts h d), those with which[i] rotated.

    With gradients, that of x is written at once, without copies of those of the parts.
    """
    if writes_gradient(x):
        return _Rotation.apply(x, *tables, which)
    if is_only_computed(x):
        return _turned_parts(x, tables, which)
    return tuple(apply_rotary(y, tables) if turn else y for y, turn in zip(x.unbind(2), which))


class _Rotation(Function):
    """`rotated_parts`. The gradient is rotated back by the operations of autograd, bit for bit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, which: tuple[bool, ...]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        ctx.which = which
        return _turned_parts(x, RotaryTables(cos, sin), which)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        if torch.is_grad_enabled():  # for gradients of gradients
            back = RotaryTables(cos, -sin)
            turned = (apply_rotary(g, back) if turn else g for g, turn in zip(grads, ctx.which))
            return torch.stack(list(turned), dim=2), None, None, None
        b, n, *head = grads[0].shape
        out = grads[0].new_empty(b, n, len(grads), *head)
        for part, grad, turn in zip(out.unbind(2), grads, ctx.which):
            if turn:
                _turn(grad, part, cos, -sin)
            else:
                part.copy_(grad)
        return out, None, None, None


def _turned_parts(x: Tensor, tables: RotaryTables, which: tuple[bool, ...]) -> tuple[Tensor, ...]:
    """`rotated_parts`, with neighbours rotated at once, which takes fewer operations: half as many kernels on
    a GPU, where a step of sampling for few clips takes as long as it takes the host to launch them."""
    parts: list[Tensor] = []
    for turn, run in itertools.groupby(range(len(which)), key=which.__getitem__):
        indices = list(run)
        neighbours = x[:, :, indices[0] : indices[-1] + 1]
        if turn:
            heads = neighbours.flatten(2, 3)
            neighbours = _turn(heads, heads.new_empty(heads.shape), *tables).view(neighbours.shape)
        parts.extend(neighbours.unbind(2))
    return tuple(parts)


def _turn(x: Tensor, out: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Write x (b n h d), rotated, into `out`. Products with the tables are float32 at least."""
    cos, sin = cos[:, None, :], sin[:, None, :]
    half = cos.shape[-1]
    widths = (half, half, x.shape[-1] - 2 * half)
    first, second, unrotated = x.split(widths, dim=-1)
    to_first, to_second, to_unrotated = out.split(widths, dim=-1)
    wide = torch.promote_types(x.dtype, torch.float32)
    first, second = first.to(wide), second.to(wide)
    to_first.copy_((first * cos).sub_(second * sin))
    to_second.copy_((second * cos).add_(first * sin))
    to_unrotated.copy_(unrotated)
    return out
