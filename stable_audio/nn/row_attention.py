"""Attention within each of several clips that share a row of tokens, by calls of a kernel for whole clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from stable_audio.nn.kernels import Attend
from stable_audio.nn.transfer import to_device

GROUPS = 4
"""Calls of `PaddedGroups`. More would pad less, but each is a call of its own."""


class Pattern(NamedTuple):
    """Which tokens see which, and the kernel that computes single clips; see `Attend`."""

    kernel: Attend
    causal: bool
    window: tuple[int, int] | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.kernel(q, k, v, causal=self.causal, window=self.window, mask=mask)


@dataclass(frozen=True)
class Places:
    """Where the tokens of a row belong.

    Sizes are those of tensors: a compiled network takes other ones without being compiled again, which it
    would not if it read them from numbers.

    Attributes:
        clip: (l,) number of the clip that each token belongs to; clips lie one after another.
        position: (l,) position of each token within its clip.
        steps: positions in the longest clip: 0, 1, ...
    """

    clip: Tensor
    position: Tensor
    steps: Tensor

    @staticmethod
    def of(lengths: Sequence[int]) -> Places:
        """Of clips of these lengths, on the CPU."""
        counts = torch.tensor(lengths)
        clip = torch.repeat_interleave(torch.arange(len(lengths)), counts)
        position = torch.arange(len(clip)) - (counts.cumsum(0) - counts)[clip]
        return Places(clip, position, torch.arange(max(lengths)))

    def to(self, device: torch.device) -> Places:
        """The same on a device."""
        return Places(*(to_device(y, device) for y in (self.clip, self.position, self.steps)))

    @property
    def longest(self) -> int:
        """Tokens of the longest clip."""
        return self.steps.shape[0]


class RowAttention(Protocol):
    """Attention of the clips of a row (1 l h d), each to itself or to its own item of a context."""

    def attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention: q, k, v (1 l h d) -> (1 l h d)."""
        ...

    def cross_attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention to a context: q (1 l h d), k and v (b m h' d), mask (b m) -> (1 l h d)."""
        ...

    def tensors(self) -> Iterator[Tensor]:
        """The tensors whose sizes depend on the lengths of the clips."""
        ...


@dataclass(frozen=True)
class EqualRuns:
    """One call for all clips of one length, which lie side by side; nothing is copied and nothing padded.

    Attributes:
        runs: (tokens of each clip, clips) of each run.
    """

    runs: tuple[tuple[int, int], ...]

    @staticmethod
    def of(lengths: Sequence[int], places: Places) -> EqualRuns:
        """For clips of these lengths, where equal ones are neighbours."""
        return EqualRuns(tuple((n, len(list(same))) for n, same in groupby(lengths)))

    def attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = [self._clips(y) for y in (q, k, v)]
        return torch.cat([pattern(*run).flatten(0, 1) for run in zip(*parts)]).unsqueeze(0)

    def cross_attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        counts = [count for _, count in self.runs]
        masks = [None] * len(counts) if mask is None else mask.split(counts)
        parts = zip(self._clips(q), k.split(counts), v.split(counts), masks)
        return torch.cat([pattern(*run).flatten(0, 1) for run in parts]).unsqueeze(0)

    def tensors(self) -> Iterator[Tensor]:
        return iter(())

    def _clips(self, x: Tensor) -> list[Tensor]:
        """(1 l h d) -> (clips n h d) of each run."""
        parts = x[0].split([n * count for n, count in self.runs])
        return [part.unflatten(0, (count, n)) for part, (n, count) in zip(parts, self.runs)]


class PaddedGroup(NamedTuple):
    """Clips of similar length as one batch.

    Attributes:
        tokens: (g n) places of the clips' tokens in the row; any in the padding.
        real: (g n) bool, False = padding.
        clips: (g,) numbers of the clips.
    """

    tokens: Tensor
    real: Tensor
    clips: Tensor


@dataclass(frozen=True)
class PaddedGroups:
    """A few calls, each for clips of similar length that are padded to the longest of them.

    The number of calls is the same for all rows, and sizes are those of tensors, so that a compiled network
    serves any lengths.

    Attributes:
        back: (l,) places of the row's tokens in the flattened groups.
    """

    groups: tuple[PaddedGroup, ...]
    back: Tensor

    @staticmethod
    def of(lengths: Sequence[int], places: Places) -> PaddedGroups:
        """For clips of these lengths, longest first."""
        device = places.clip.device
        groups, back, start, behind = [], [], 0, 0
        starts = torch.tensor([0, *lengths]).cumsum(0)
        for size in partition(lengths, GROUPS):
            clips = torch.arange(start, start + size)
            # The compiler takes sizes of 0 and 1 for special cases: there are at least two clips and tokens.
            clips = torch.cat([clips, torch.zeros(max(2 - size, 0), dtype=torch.long)])
            counts = torch.tensor([*lengths[start : start + size], *[0] * max(2 - size, 0)])
            steps = torch.arange(max(2, int(counts.max())))
            real = steps < counts[:, None]
            tokens = torch.where(real, starts[clips][:, None] + steps, starts[clips][:, None])
            back.append(behind + real.flatten().nonzero().squeeze(1))
            behind, start = behind + real.numel(), start + size
            groups.append(PaddedGroup(*(to_device(y, device) for y in (tokens, real, clips))))
        return PaddedGroups(tuple(groups), to_device(torch.cat(back), device))

    def attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = []
        for tokens, real, _ in self.groups:
            queries, keys, values = (_taken(y[0], tokens) for y in (q, k, v))
            outs.append(pattern(queries, keys, values, real).flatten(0, 1))
        return torch.cat(outs).index_select(0, self.back).unsqueeze(0)

    def cross_attend(self, pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        outs = []
        for tokens, _, clips in self.groups:
            own = [None if y is None else y.index_select(0, clips) for y in (k, v, mask)]
            # A causal mask counts queries and keys from the first on, which padding behind does not move.
            outs.append(pattern(_taken(q[0], tokens), *own).flatten(0, 1))  # type: ignore[arg-type]
        return torch.cat(outs).index_select(0, self.back).unsqueeze(0)

    def tensors(self) -> Iterator[Tensor]:
        yield self.back
        for group in self.groups:
            yield from group


def padded_cross_attention(
    pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, places: Places
) -> Tensor:
    """Attention of the clips of a row to their context by one call, with queries padded to the longest."""
    padded = q.new_zeros(k.shape[0], places.longest, *q.shape[2:])
    padded = padded.index_put((places.clip, places.position), q[0])
    return pattern(padded, k, v, mask)[places.clip, places.position].unsqueeze(0)


def partition(lengths: Sequence[int], count: int) -> list[int]:
    """How many clips go into each of `count` groups, so that they have the fewest pairs of tokens.

    Args:
        lengths: of the clips, longest first; groups are neighbours. With fewer clips than groups some are
            empty.
    """
    n = len(lengths)
    ends, starts = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    squares = np.square(np.array([*lengths, 0], dtype=float))
    pairs = np.where(ends >= starts, (ends - starts) * squares[None, :], np.inf)  # of a group starts .. ends
    best, chosen = pairs[:, 0], []
    for _ in range(count - 1):
        total = best[None, :] + pairs
        chosen.append(total.argmin(axis=1))
        best = total.min(axis=1)
    sizes, end = [], n
    for start_of in reversed(chosen):
        sizes.append(end - int(start_of[end]))
        end = int(start_of[end])
    return [end, *reversed(sizes)]


def _taken(x: Tensor, tokens: Tensor) -> Tensor:
    """x (l h d) at tokens (g n) -> (g n h d)."""
    return x.index_select(0, tokens.flatten()).unflatten(0, (tokens.shape[0], tokens.shape[1]))
