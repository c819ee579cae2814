"""Work on whole tensors that are split over processes: each is put together on one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stable_audio.optim.split import RowShare, share_of

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def batches(weights: Sequence[DTensor]) -> Iterator[list[DTensor]]:
    """The weights in groups of one type, of as many as processes share a copy: one for each of them."""
    count = share_of(weights[0]).count
    for dtype in dict.fromkeys(p.dtype for p in weights):
        alike = [p for p in weights if p.dtype is dtype]
        for first in range(0, len(alike), count):
            yield alike[first : first + count]


def work_on_whole(
    weights: Sequence[DTensor], parts: Sequence[Tensor], work: Callable[[Tensor, Any], Tensor]
) -> list[Tensor]:
    """Put tensor i together on process i, let it work there, and send each process its rows of the result.

    All processes that share a copy of the weights must call it.

    Args:
        weights: at most as many as processes share a copy; tensor i is split as weights[i] is.
        parts: the rows of each tensor that this process has, all of one type.
        work: (whole tensor, weight) -> a tensor of the same shape and type.

    Returns:
        the rows of each result that this process has.
    """
    share = share_of(weights[0])
    sizes = [_sizes(weight, share) for weight in weights]
    mine = sizes[share.index] if share.index < len(weights) else [0] * share.count
    theirs = [size[share.index] for size in sizes] + [0] * (share.count - len(weights))
    gathered = _exchange(torch.cat([part.flatten() for part in parts]), theirs, mine, share)
    if share.index < len(weights):
        own = weights[share.index]
        gathered = work(gathered.view(own.shape), own).flatten()
    rows = _exchange(gathered, mine, theirs, share).split(theirs[: len(weights)])
    return [row.view(part.shape) for row, part in zip(rows, parts)]


def _sizes(weight: DTensor, share: RowShare) -> list[int]:
    """How many numbers of a weight each process has."""
    row = weight.numel() // max(1, weight.shape[0])
    ranges = (share.rows(weight.shape[0], index) for index in range(share.count))
    return [(end - first) * row for first, end in ranges]


def _exchange(values: Tensor, sent: list[int], received: list[int], share: RowShare) -> Tensor:
    """Send `sent[i]` of the values to process i, and receive `received[i]` from it."""
    result = values.new_empty(sum(received))
    torch.distributed.all_to_all_single(result, values.contiguous(), received, sent, group=share.group)
    return result
