"""Several conditioners in one slot: how they are merged, and how each is dropped in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class SlotOptions:
    """What a slot holds.

    Attributes:
        dim: features (channels for input_concat) that reach the mechanism; 0 = the slot is not served.
        merge: `concat`: conditioners side by side, as the wiring delivers them; `sum`: added up, which
            needs equal sizes.
        sizes: the share of each conditioner, in the order of the id list: features for `global`, channels
            for `input_concat`, tokens for `cross_attn` and `prepend`. Needed for `sum` and `dropout`.
        dropout: probability of dropping each conditioner of an item in training; a dropped one is zeros.
    """

    dim: int = 0
    merge: Literal["concat", "sum"] = "concat"
    sizes: Sequence[int] = ()
    dropout: Sequence[float] = ()


class Merge:
    """Applies `SlotOptions` to the tensor of a slot.

    Args:
        name: the keyword, for messages.
        axis: the axis along which the wiring joined the conditioners.
        width_axis: whether that axis is also the one that `dim` counts.
    """

    def __init__(self, options: SlotOptions, *, name: str, axis: int, width_axis: bool) -> None:
        self.options, self.axis = options, axis
        sizes, dropout = tuple(options.sizes), tuple(options.dropout)
        if options.dim < 0:
            raise ValueError(f"{name}.dim must be 0 or more, found {options.dim}")
        if (options.merge == "sum" or dropout) and not sizes:
            raise ValueError(f"{name}: merge 'sum' and dropout need `sizes`, the share of each conditioner")
        if options.merge == "sum" and len(set(sizes)) > 1:
            raise ValueError(f"{name}: merge 'sum' needs equal sizes, found {list(sizes)}")
        if dropout and len(dropout) != len(sizes):
            raise ValueError(f"{name}.dropout needs {len(sizes)} entries like sizes, found {len(dropout)}")
        if any(not 0 <= p <= 1 for p in dropout):
            raise ValueError(f"{name}.dropout must be between 0 and 1, found {list(dropout)}")
        expected = options.dim * (len(sizes) if options.merge == "sum" else 1)
        if sizes and width_axis and sum(sizes) != expected:
            raise ValueError(f"{name}.sizes must add up to {expected}, found {list(sizes)}")
        self.width = expected if sizes and width_axis else options.dim

    def __call__(self, value: Tensor, training: bool) -> Tensor:
        """The tensor of the slot -> what the mechanism sees. Dropout draws from torch's generator."""
        if not self.options.sizes:
            return value
        parts = list(value.split(list(self.options.sizes), dim=self.axis))
        if training and self.options.dropout:
            parts = [_dropped(part, p) for part, p in zip(parts, self.options.dropout)]
        if self.options.merge == "sum":
            return torch.stack(parts).sum(dim=0)
        return torch.cat(parts, dim=self.axis)

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """The mask (b l) that fits the merged tokens: summed tokens are valid where any part is."""
        if mask is None or self.options.merge != "sum":
            return mask
        return torch.stack(mask.split(list(self.options.sizes), dim=1)).any(dim=0)


def _dropped(part: Tensor, probability: float) -> Tensor:
    kept = torch.rand(part.shape[0], device=part.device) >= probability
    return part * kept.view(-1, *[1] * (part.ndim - 1)).to(part.dtype)
