"""Averages in few bits: for which split weights there are any, and how they are stored and read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stable_audio.optim.split import has_rows_everywhere, is_split, like_split, local, own_rows

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

AVERAGES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

PARTS = frozenset({"codes", "scale"})
"""Tensors of an average in few bits that have numbers for each row of its weight."""

LEAST_NUMBERS = 4096
"""Numbers of the smallest weight whose averages are in few bits, as torchao has it."""


def rows_have_blocks(weight: DTensor, block_size: float) -> bool:
    """Whether the averages of a split weight are in blocks: as of a whole one, where every process has rows
    and blocks end with rows."""
    if weight.numel() < LEAST_NUMBERS or (weight.numel() // weight.shape[0]) % block_size:
        return False
    return has_rows_everywhere(weight)


def is_in_blocks(value: Tensor) -> bool:
    return hasattr(value, "block_size")


def plain_parts(value: Any, weight: Tensor) -> Any:
    """The plain tensors of an average in few bits, by name; any other value as it is.

    Those of a split weight are split like it, with a row for each of its rows, and codes of eight bits as
    whole numbers, since not all libraries send float8.
    """
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if not is_in_blocks(value):
        return like_split(weight, value) if is_split(weight) else value
    names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
    parts = {name: getattr(value, name) for name in names}
    if not is_split(weight):
        return parts
    return {k: like_split(weight, _rows(v, len(value))) if k in PARTS else v for k, v in parts.items()}


def stored_average(
    average: Tensor,
    value: Tensor | Mapping[str, Tensor],
    weight: Tensor,
    *,
    empty: Callable[[Tensor, int], Tensor],
) -> Tensor:
    """A stored average of a weight, as this process holds it.

    Args:
        average: zeros of the kind that the process holds, for its rows.
        value: what is stored: numbers, or their parts (`plain_parts`), of the whole weight or split.
        empty: (whole weight, numbers per block) -> an average in blocks.
    """
    if not isinstance(value, Mapping):
        return average.copy_(local(value)) if is_in_blocks(average) else local(value)
    size = weight.numel() // value["scale"].numel()
    if is_in_blocks(average) and size == average.block_size:  # type: ignore[attr-defined]
        for name in PARTS.intersection(value):
            _fill(getattr(average, name), _own(value[name], weight))
        return average
    like = torch.empty(weight.shape, dtype=weight.dtype, device=average.device)
    stored: Any = empty(like, size)
    for name in PARTS.intersection(value):
        part = value[name]
        _fill(getattr(stored, name), part.full_tensor() if is_split(part) else part)
    return average.copy_(_own(stored.dequantize(), weight).reshape(average.shape))


def _rows(part: Tensor, rows: int) -> Tensor:
    return (part.view(torch.uint8) if part.element_size() == 1 else part).reshape(rows, -1)


def _own(value: Tensor, weight: Tensor) -> Tensor:
    """This process's part of a tensor with numbers for each row of a weight, in any shape."""
    if is_split(value) or not is_split(weight):
        return local(value)
    return own_rows(weight, value.reshape(weight.shape[0], -1))


def _fill(target: Tensor, value: Tensor) -> None:
    """Copy values of any shape; of eight bits as they are."""
    if target.element_size() == 1:
        target, value = target.view(torch.uint8), value.view(torch.uint8)
    target.copy_(value.reshape(target.shape))
