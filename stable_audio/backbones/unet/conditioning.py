"""Merge several conditioners in one slot, and drop each at random in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MergeName = Literal["concat", "sum"]


@dataclass(frozen=True)
class SlotOptions:
    """Contents of a slot.

    Attributes:
        dim: features (channels for input_concat) after merging; 0 = the slot is not used.
        merge: for all conditioners, or one per conditioner. `concat`: side by side, as the wiring delivers
            them; `sum`: all with this value are added up, which needs equal sizes.
        sizes: the share of each conditioner, in the order of the id list: features for `global`, channels
            for `input_concat`, tokens for `cross_attn` and `prepend`. Needed for `sum`, `dropout` and all
            options per conditioner.
        dropout: probability of replacing each conditioner of an item by zeros in training.
    """

    dim: int = 0
    merge: MergeName | Sequence[MergeName] = "concat"
    sizes: Sequence[int] = ()
    dropout: Sequence[float] = ()


@dataclass(frozen=True)
class InputConcatOptions(SlotOptions):
    """Contents of the input_concat slot.

    Attributes:
        mechanism: for all conditioners, or one per conditioner. `concat`: input channels; `sum`: added to
            the features after the first convolution, through a 1x1 convolution.
    """

    mechanism: MergeName | Sequence[MergeName] = "concat"


class Merge:
    """Applies `SlotOptions` to the tensor of a slot.

    Args:
        name: keyword of the slot, for messages.
        axis: axis along which the wiring concatenated the conditioners.
        width_axis: whether that axis is also the one of `dim`.

    Attributes:
        width: features (channels) that the slot must have.
        widths: features of each merged part, with `width_axis`.
        mechanisms: mechanism of each merged part.
    """

    def __init__(self, options: SlotOptions, *, name: str, axis: int, width_axis: bool) -> None:
        self.options, self.axis = options, axis
        sizes, dropout = tuple(options.sizes), tuple(options.dropout)
        merges = _per_conditioner(name, "merge", options.merge, len(sizes))
        mechanism = options.mechanism if isinstance(options, InputConcatOptions) else "concat"
        mechanisms = _per_conditioner(name, "mechanism", mechanism, len(sizes))
        if options.dim < 0:
            raise ValueError(f"{name}.dim must be 0 or more, found {options.dim}")
        if ("sum" in (options.merge, *merges) or dropout) and not sizes:
            raise ValueError(f"{name}: merge 'sum' and dropout need `sizes`, the share of each conditioner")
        if dropout and len(dropout) != len(sizes):
            raise ValueError(f"{name}.dropout needs {len(sizes)} entries like sizes, found {len(dropout)}")
        if any(not 0 <= p <= 1 for p in dropout):
            raise ValueError(f"{name}.dropout must be between 0 and 1, found {list(dropout)}")
        self.groups = _groups(merges, mechanisms)
        self.mechanisms = [mechanisms[g[0]] for g in self.groups] if sizes else [str(mechanism)]
        for group in self.groups:
            if len({sizes[n] for n in group}) > 1:
                group_sizes = [sizes[n] for n in group]
                raise ValueError(f"{name}: merge 'sum' needs equal sizes, found {group_sizes}")
        self.widths = [sizes[g[0]] for g in self.groups] if sizes else [options.dim]
        if sizes and width_axis and sum(self.widths) != options.dim:
            raise ValueError(
                f"{name}.sizes must add up to {options.dim} (dim) after merging, found {list(sizes)}"
            )
        self.width = sum(sizes) if sizes and width_axis else options.dim

    def __call__(self, value: Tensor, training: bool) -> Tensor:
        """The tensor of the slot -> the input of the mechanism. Dropout draws from torch's generator."""
        return torch.cat(self.parts(value, training), dim=self.axis) if self.options.sizes else value

    def parts(self, value: Tensor, training: bool) -> list[Tensor]:
        """The merged parts of the tensor of the slot, in the order of `mechanisms`."""
        if not self.options.sizes:
            return [value]
        parts = list(value.split(list(self.options.sizes), dim=self.axis))
        if training and self.options.dropout:
            parts = [drop_items(part, p) for part, p in zip(parts, self.options.dropout)]
        return [torch.stack([parts[n] for n in group]).sum(dim=0) for group in self.groups]

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """The mask (b l) of the merged tokens: a sum is valid where any summand is."""
        if mask is None or not self.options.sizes:
            return mask
        parts = mask.split(list(self.options.sizes), dim=1)
        return torch.cat([torch.stack([parts[n] for n in g]).any(dim=0) for g in self.groups], dim=1)


def drop_items(part: Tensor, probability: float) -> Tensor:
    """Set items (b ...) to zero with a probability, drawn from torch's generator."""
    keep = torch.rand(part.shape[0], device=part.device) >= probability
    return part * keep.view(-1, *[1] * (part.ndim - 1)).to(part.dtype)


def _per_conditioner(name: str, key: str, value: str | Sequence[str], count: int) -> list[str]:
    """One entry per conditioner."""
    if isinstance(value, str):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}.{key} needs one entry per entry of sizes ({count}), found {len(value)}")
    return list(value)


def _groups(merges: Sequence[str], mechanisms: Sequence[str]) -> list[list[int]]:
    """Indices of conditioners to add up, per mechanism, at the position of the first; others alone."""
    groups: dict[tuple[str, object], list[int]] = {}
    for n, (merge, mechanism) in enumerate(zip(merges, mechanisms)):
        groups.setdefault((mechanism, "sum" if merge == "sum" else n), []).append(n)
    return list(groups.values())
