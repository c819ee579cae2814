"""Several clips in one row of tokens: the layout of the row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.nn.row_attention import Places, RowAttention
from stable_audio.nn.transfer import to_device


@dataclass(frozen=True)
class Packing:
    """The layout of b clips in one row of tokens (1 l d), one clip after another, the longest first.

    Attributes:
        lengths: (b,) tokens of each clip; they sum to l.
        places: which clip each token belongs to, and where in it.
        attention: how tokens attend to those of their clip, and to its context.
    """

    lengths: Tensor
    places: Places
    attention: RowAttention

    def per_token(self, values: Tensor) -> Tensor:
        """One vector per clip (b 1 d) -> the vector of each token's clip (1 l d).

        The gradient of a clip's vector is summed in float32 at least: in 16 bits a GPU would round after
        every token, and a sum would stop growing after some hundred.
        """
        rows = _wide(values[:, 0]).index_select(0, self.places.clip)
        return rows.to(values.dtype).unsqueeze(0)

    def mean(self, x: Tensor) -> Tensor:
        """x (1 l d) -> the mean over each token's clip (1 l d), summed as gradients are in `per_token`."""
        rows = _wide(x[0])
        sums = rows.new_zeros(self.lengths.shape[0], x.shape[-1]).index_add(0, self.places.clip, rows)
        return self.per_token((sums / self.lengths.to(rows.dtype)[:, None]).to(x.dtype).unsqueeze(1))


@dataclass(frozen=True)
class PackedRow:
    """How to assemble the row of a transformer from padded tokens (b n d).

    Attributes:
        packing: layout of the row, including the tokens before each clip.
        items: (b,) the item of the batch that each clip of the row is; None if their order is the same.
        real: (r,) places of the real tokens in the flattened (b n), in the order of the row.
        order: (l,) places of the row's tokens in [memory | prepended, flattened | real tokens]. The prepended
            tokens are in the order of the row's clips.
        out: (r,) places of the real tokens in the row.
    """

    packing: Packing
    items: Tensor | None
    real: Tensor
    order: Tensor
    out: Tensor

    @staticmethod
    def of(
        lengths: Sequence[int],
        *,
        padded: int,
        memory: int,
        prepended: int,
        device: torch.device,
        attention: Callable[[Sequence[int], Places], RowAttention],
        any_lengths: bool = False,
    ) -> PackedRow:
        """Clips of `lengths` real tokens out of `padded`, each after `memory` and `prepended` tokens.

        Args:
            attention: (tokens of each clip of the row, longest first; their places) -> how they attend.
            any_lengths: for a compiled network, which then serves rows of other lengths as well.
        """
        items = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        before, count = memory + prepended, len(lengths)
        in_order = [lengths[i] for i in items]
        whole = [before + n for n in in_order]
        row, real = Places.of(whole), Places.of(in_order)
        is_real = row.position >= before
        order = row.clip * prepended + row.position  # memory comes first in both
        order = torch.where(row.position < memory, row.position, order)
        order[is_real] = memory + count * prepended + torch.arange(len(real.clip))
        places = row.to(device)
        found = PackedRow(
            packing=Packing(
                lengths=to_device(torch.tensor(whole), device),
                places=places,
                attention=attention(whole, places),
            ),
            items=to_device(torch.tensor(items), device) if any_lengths or items != sorted(items) else None,
            real=to_device(torch.tensor(items)[real.clip] * padded + real.position, device),
            order=to_device(order, device),
            out=to_device(is_real.nonzero().squeeze(1), device),
        )
        if any_lengths:
            mark_dynamic(found.tensors())
        return found

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, each of which is as long as there are clips or tokens of some kind."""
        packing = self.packing
        yield from (packing.lengths, packing.places.clip, packing.places.position, packing.places.steps)
        yield from (self.real, self.order, self.out)
        if self.items is not None:
            yield self.items
        yield from packing.attention.tensors()

    def sorted_items(self, values: Tensor | None) -> Tensor | None:
        """Values of the items of the batch (b ...) in the order of the row's clips."""
        return values if values is None or self.items is None else values.index_select(0, self.items)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mark_dynamic(tensors: Iterable[Tensor], dims: Sequence[int] = (0, 1)) -> None:
    """Let the compiler expect other sizes of these dimensions, where tensors have them, in later calls."""
    from torch._dynamo import maybe_mark_dynamic

    for tensor in tensors:
        for dim in dims:
            if dim < tensor.dim():
                maybe_mark_dynamic(tensor, dim)


def check_lengths(lengths: Sequence[int], *, clips: int, padded: int, multiple: int = 1) -> None:
    """Raise ValueError unless there is one length in 1 .. padded per clip, each a multiple of `multiple`."""
    wrong = [n for n in lengths if not 0 < n <= padded or n % multiple]
    if len(lengths) != clips or wrong:
        raise ValueError(
            f"lengths must be {clips} multiples of {multiple} from {multiple} to {padded}, one per clip; "
            f"found {list(lengths)}"
        )
