"""Attention of the clips of a row by PyTorch's FlexAttention (Dong et al., 2024, arXiv:2412.05496)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.nn.row_attention import Pattern, Places, padded_cross_attention
from stable_audio.nn.transfer import to_device

BLOCK = 128
"""Tokens of a block of queries or keys, which is computed or left out as a whole."""


@functools.cache
def compiled_flex() -> Callable[..., Any]:
    """FlexAttention as one kernel, which is made once for each length that `padded_length` has."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@dataclass(frozen=True)
class FlexRow:
    """One call for all clips of a row; see `RowAttention`. Blocks without a pair of one clip are left out.

    The mask of blocks is made once for a row and serves all layers.

    Attributes:
        kernel: `flex_attention`, compiled or not.
        mask: its `BlockMask`, for the padded row.
        padding: tokens that are added to the row.
    """

    kernel: Callable[..., Any]
    mask: Any
    padding: int
    places: Places

    @staticmethod
    def of(
        lengths: Sequence[int],
        places: Places,
        *,
        causal: bool,
        window: tuple[int, int] | None,
        kernel: Callable[..., Any],
    ) -> FlexRow:
        """For clips of these lengths; `causal` and `window` are those of the calls."""
        total = sum(lengths)
        padding = padded_length(total) - total
        clip = Places.of([*lengths, padding]).clip  # the padding is a clip of its own
        left, right = window or (-1, -1)
        mask = block_mask(clip, left, 0 if causal else right, places.clip.device)
        return FlexRow(kernel=kernel, mask=mask, padding=padding, places=places)

    def attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = q.shape[1]
        q, k, v = (F.pad(y, (0, 0, 0, 0, 0, self.padding)).transpose(1, 2) for y in (q, k, v))
        out: Tensor = self.kernel(q, k, v, block_mask=self.mask)
        return out.transpose(1, 2)[:, :length]

    def cross_attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return padded_cross_attention(pattern, q, k, v, mask, self.places)

    def tensors(self) -> Iterator[Tensor]:
        return iter(())


def padded_length(tokens: int) -> int:
    """The next of few lengths: four in each octave, so that few kernels are made; whole blocks."""
    step = max(BLOCK, 2 ** max(tokens - 1, 1).bit_length() // 8)
    return -(-tokens // step) * step


def block_mask(clip: Tensor, left: int, right: int, device: torch.device) -> Any:
    """The `BlockMask` of tokens that see those of their clip from `left` before them to `right` behind.

    Only what is at the edges of blocks is looked at, since clips are contiguous: the matrix of all pairs of
    tokens, of which `create_block_mask` makes it, has gigabytes for a long row.

    Args:
        clip: (l,) clip of each token, ascending, on the CPU; l is a multiple of BLOCK.
        left: tokens before one that it sees; -1 for all.
        right: tokens behind one that it sees; -1 for all.
    """
    from torch.nn.attention.flex_attention import BlockMask

    seen, whole = block_pairs(clip, left, right)
    own = to_device(clip, device)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = own[query] == own[key]
        if left >= 0:
            same = same & (key >= query - left)
        if right >= 0:
            same = same & (key <= query + right)
        return same

    parts: Any = [to_device(y, device) for pairs in (seen & ~whole, whole) for y in _listed(pairs)]
    return BlockMask.from_kv_blocks(*parts, BLOCK_SIZE=BLOCK, mask_mod=visible)  # type: ignore[misc]


def block_pairs(clip: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    """(blocks blocks) bool each: pairs of blocks with tokens that see each other, and those where all do.

    The first may hold more pairs, the second fewer. Arguments as of `block_mask`.
    """
    blocks = clip.unflatten(0, (-1, BLOCK))
    first, last = blocks[:, 0], blocks[:, -1]
    seen = (first[:, None] <= last) & (first <= last[:, None])
    start = torch.arange(len(blocks)) * BLOCK
    ahead = start - start[:, None]  # of the first key before the first query
    if left >= 0:
        seen &= ahead + BLOCK - 1 >= -left
    if right >= 0:
        seen &= ahead - (BLOCK - 1) <= right
    single = first == last
    whole = single[:, None] & single & (first[:, None] == first)
    if left >= 0:
        whole &= ahead - (BLOCK - 1) >= -left
    if right >= 0:
        whole &= ahead + BLOCK - 1 <= right
    return seen, whole


def _listed(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """(blocks blocks) bool -> for each block of queries the number of its blocks of keys, and these first."""
    listed = torch.argsort(~pairs, dim=-1, stable=True)
    return pairs.sum(-1).to(torch.int32)[None, None], listed.to(torch.int32)[None, None]
