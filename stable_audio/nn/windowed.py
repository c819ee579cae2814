"""Attention within a sliding window, without special kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.nn.fused import fused_attention


def banded_mask(queries: int, keys: int, left: int, right: int, device: torch.device) -> Tensor:
    """(queries keys) bool: query i attends to keys i - left .. i + right. A negative side is unlimited."""
    offset = torch.arange(keys, device=device)[None, :] - torch.arange(queries, device=device)[:, None]
    mask = torch.ones_like(offset, dtype=torch.bool)
    if left >= 0:
        mask &= offset >= -left
    if right >= 0:
        mask &= offset <= right
    return mask


def windowed_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int, visible: Tensor | None = None
) -> Tensor:
    """Self-attention of q, k, v (b h n d) in which position i attends to i - left .. i + right.

    Long sequences are split into blocks of queries, each with its visible keys, so that the cost grows with
    n * (left + right) and not with n^2. Short ones, and windows unlimited on one side, use the full matrix
    with a mask.

    Args:
        left: keys before a query that it sees; -1 for all.
        right: keys behind a query that it sees; -1 for all.
        visible: (b n) bool, the keys that may be seen at all; None for all. A query without any visible key
            sees its own.
    """
    n, block = q.shape[2], max(left + right, 32)
    if left < 0 or right < 0 or _at_most(n, 2 * block):
        mask = banded_mask(n, n, left, right, q.device)
        if visible is not None:
            mask = _or_own(mask & visible[:, None, None, :], torch.eye(n, dtype=torch.bool, device=q.device))
        return fused_attention(q, k, v, mask)
    return _blockwise(q, k, v, left, right, block, visible)


def _at_most(n: int, most: int) -> bool:
    """n <= most; False for a length that the compiler keeps open, since what it makes serves all."""
    if not torch.compiler.is_compiling():
        return n <= most
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(n <= most)


def _or_own(mask: Tensor, own: Tensor) -> Tensor:
    """`mask` with the own key of each query where no other is visible, because an empty row would be NaN."""
    return mask | (own & ~mask.any(dim=-1, keepdim=True))


def _blockwise(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int, block: int, visible: Tensor | None
) -> Tensor:
    b, h, n, d = q.shape
    blocks = -(-n // block)
    fill = blocks * block - n
    span = left + block + right
    queries = F.pad(q, (0, 0, 0, fill)).unflatten(2, (blocks, block))
    keys, values = (F.pad(y, (0, 0, left, fill + right)).unfold(2, span, block).mT for y in (k, v))
    # Move blocks into the batch, because fused kernels take four axes.
    q, k, v = (y.transpose(1, 2).flatten(0, 1) for y in (queries, keys, values))
    mask = _block_mask(n, left, right, block, blocks, q.device)
    if visible is not None:
        keys_seen = F.pad(visible, (left, fill + right)).unfold(1, span, block)
        own = (
            torch.arange(span, device=mask.device) == torch.arange(block, device=mask.device)[:, None] + left
        )
        mask = _or_own(mask & keys_seen[:, :, None, :], own).flatten(0, 1).unsqueeze(1)
    else:
        mask = mask.repeat(b, 1, 1).unsqueeze(1)
    out = fused_attention(q, k, v, mask)
    return out.unflatten(0, (b, blocks)).transpose(1, 2).reshape(b, h, blocks * block, d)[:, :, :n]


def _block_mask(n: int, left: int, right: int, block: int, blocks: int, device: torch.device) -> Tensor:
    """(blocks block span) bool. Only its own key is visible to a padding query, so that no row is empty."""
    query = torch.arange(block, device=device)[:, None]
    key = torch.arange(left + block + right, device=device)[None, :] - left
    start = torch.arange(blocks, device=device)[:, None, None] * block
    inside = (key >= query - left) & (key <= query + right)
    real = (start + key >= 0) & (start + key < n)
    return (inside & real) | ((key == query) & (start + query >= n))
