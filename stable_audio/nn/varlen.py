"""Attention of many sequences of different length by one kernel: those of PyTorch and of flash-attn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stable_audio.nn.row_attention import Pattern, Places, padded_cross_attention
from stable_audio.nn.transfer import to_device


class Sequences(NamedTuple):
    """Where sequences of tokens lie in one row.

    Attributes:
        ends: (s + 1,) int32, where each begins; the last one is the end.
        longest: tokens of the longest, or more.
    """

    ends: Tensor
    longest: int


VarlenKernel = Callable[[Tensor, Tensor, Tensor, Sequences, Sequences, bool, tuple[int, int]], Tensor]
"""q (l h d), k and v (m h d), sequences of q and of k, causal, (left, right) -> (l h d)."""


def torch_varlen(windows: bool) -> VarlenKernel:
    """PyTorch's kernel, from 2.10 on.

    Args:
        windows: whether it takes (left, right), as from 2.11 on; before, it takes the word causal.
    """
    from torch.nn.attention.varlen import varlen_attn

    def sides(causal: bool, window: tuple[int, int]) -> dict[str, Any]:
        return {"window_size": (window[0], 0 if causal else window[1])} if windows else {"is_causal": causal}

    return _kernel(varlen_attn, sides)


def flash_varlen() -> VarlenKernel:
    """That of the flash-attn package."""
    from flash_attn import flash_attn_varlen_func

    return _kernel(flash_attn_varlen_func, lambda causal, window: {"causal": causal, "window_size": window})


def _kernel(function: Any, sides: Callable[[bool, tuple[int, int]], dict[str, Any]]) -> VarlenKernel:
    """A function of both packages, which have the same first arguments and words of their own for sides."""

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        own: Sequences,
        seen: Sequences,
        causal: bool,
        window: tuple[int, int],
    ) -> Tensor:
        ends = (own.ends, seen.ends, own.longest, seen.longest)
        out: Tensor = function(q, k, v, *ends, **sides(causal, window))
        return out

    return run


@dataclass(frozen=True)
class VarlenRow:
    """One call for all clips of a row; see `RowAttention`.

    Attributes:
        kernel: one of those above.
        ends: (b + 1,) int32, where each clip begins; the last one is the end of the row.
    """

    kernel: VarlenKernel
    ends: Tensor
    places: Places

    @staticmethod
    def of(lengths: Sequence[int], places: Places, kernel: VarlenKernel) -> VarlenRow:
        """For clips of these lengths."""
        ends = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        return VarlenRow(kernel, to_device(ends, places.clip.device), places)

    def attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = Sequences(self.ends, self.places.longest)
        window = pattern.window or (-1, -1)
        return self.kernel(q[0], k[0], v[0], own, own, pattern.causal, window).unsqueeze(0)

    def cross_attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None or pattern.causal:
            # These kernels take no masks, and align causal ones at the bottom right.
            return padded_cross_attention(pattern, q, k, v, mask, self.places)
        if k.shape[2] != q.shape[2]:
            k, v = (y.repeat_interleave(q.shape[2] // y.shape[2], dim=2) for y in (k, v))
        clips, tokens = k.shape[0], k.shape[1]
        ends = torch.arange(clips + 1, dtype=torch.int32, device=k.device) * tokens
        own, seen = Sequences(self.ends, self.places.longest), Sequences(ends, tokens)
        return self.kernel(q[0], k.flatten(0, 1), v.flatten(0, 1), own, seen, False, (-1, -1)).unsqueeze(0)

    def tensors(self) -> Iterator[Tensor]:
        yield self.ends
