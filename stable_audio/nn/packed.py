"""Several clips in one row of tokens: the layout of the row, and attention within each clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.nn.transfer import to_device


@dataclass(frozen=True)
class Packing:
    """The layout of b clips in one row of tokens (1 l d), one clip after another.

    Attributes:
        lengths: tokens of each clip; they sum to l.
        clip: (l,) number of the clip that each token belongs to.
        position: (l,) position of each token within its clip.
    """

    lengths: tuple[int, ...]
    clip: Tensor
    position: Tensor

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> Packing:
        """The packing of clips of these lengths."""
        counts = torch.tensor(lengths)
        clip = torch.repeat_interleave(torch.arange(len(lengths)), counts)
        starts = counts.cumsum(0) - counts
        position = torch.arange(len(clip)) - starts[clip]
        return Packing(tuple(lengths), to_device(clip, device), to_device(position, device))

    def per_token(self, values: Tensor) -> Tensor:
        """One vector per clip (b 1 d) -> the vector of each token's clip (1 l d)."""
        return values[:, 0].index_select(0, self.clip).unsqueeze(0)

    def mean(self, x: Tensor) -> Tensor:
        """x (1 l d) -> the mean over each token's clip (1 l d)."""
        sums = x.new_zeros(len(self.lengths), x.shape[-1]).index_add(0, self.clip, x[0])
        counts = to_device(torch.tensor(self.lengths), x.device, x.dtype)
        return self.per_token((sums / counts[:, None]).unsqueeze(1))

    def attend(self, kernel: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of each clip to itself: q, k, v (1 l h d) -> (1 l h d).

        One call of `kernel` per clip: a single call would need a mask over all pairs of tokens, and would
        compute the pairs that the mask excludes.
        """
        parts = (y.split(self.lengths, dim=1) for y in (q, k, v))
        return torch.cat([kernel(*clip) for clip in zip(*parts)], dim=1)

    def cross_attend_at_once(
        self, kernel: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        """As `cross_attend`, by one call of `kernel` for queries that are padded to the longest clip."""
        padded = q.new_zeros(len(self.lengths), max(self.lengths), *q.shape[2:])
        padded = padded.index_put((self.clip, self.position), q[0])
        return kernel(padded, k, v, mask=mask)[self.clip, self.position].unsqueeze(0)

    def cross_attend(
        self, kernel: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attention of each clip to its own context: q (1 l h d), k and v (b m h d), mask (b m)."""
        outs = []
        for i, queries in enumerate(q.split(self.lengths, dim=1)):
            item = slice(i, i + 1)
            outs.append(kernel(queries, k[item], v[item], mask=None if mask is None else mask[item]))
        return torch.cat(outs, dim=1)


def calls_at_once(q: Tensor) -> bool:
    """Whether one call for all clips, with padding, serves cross-attention better than one for each: on a
    GPU, where a call costs the host about as long as a short clip the device."""
    return q.is_cuda


@dataclass(frozen=True)
class PackedRow:
    """How to assemble the row of a transformer from padded tokens (b n d).

    Attributes:
        packing: layout of the row, including the tokens before each clip.
        real: (r,) places of the real tokens in the flattened (b n).
        order: (l,) places of the row's tokens in [memory | prepended, flattened | real tokens].
        out: (r,) places of the real tokens in the row.
    """

    packing: Packing
    real: Tensor
    order: Tensor
    out: Tensor

    @staticmethod
    def of(
        lengths: Sequence[int], *, padded: int, memory: int, prepended: int, device: torch.device
    ) -> PackedRow:
        """Clips of `lengths` real tokens out of `padded`, each after `memory` and `prepended` tokens."""
        before, count = memory + prepended, len(lengths)
        packing = Packing.of([before + n for n in lengths], torch.device("cpu"))
        clips = Packing.of(lengths, torch.device("cpu"))
        place, clip = packing.position, packing.clip
        is_memory, is_real = place < memory, place >= before
        order = torch.where(is_memory, place, memory + clip * prepended + place - memory)
        order[is_real] = memory + count * prepended + torch.arange(len(clips.clip))
        return PackedRow(
            packing=Packing.of(packing.lengths, device),
            real=to_device(clips.clip * padded + clips.position, device),
            order=to_device(order, device),
            out=to_device(is_real.nonzero().squeeze(1), device),
        )


def check_lengths(lengths: Sequence[int], *, clips: int, padded: int, multiple: int = 1) -> None:
    """Raise ValueError unless there is one length in 1 .. padded per clip, each a multiple of `multiple`."""
    wrong = [n for n in lengths if not 0 < n <= padded or n % multiple]
    if len(lengths) != clips or wrong:
        raise ValueError(
            f"lengths must be {clips} multiples of {multiple} from {multiple} to {padded}, one per clip; "
            f"found {list(lengths)}"
        )
