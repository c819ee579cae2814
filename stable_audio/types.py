"""Names that every other module shares: axis letters, slots and the conditioning that fills them.

Axis letters in shapes: b batch, c channels, n length (samples or latent frames), l tokens, h heads,
d features.

The contract between conditioners and backbones is `Conditioning`: tensors already in the slot that the
backbone reads. Conditioners never see the backbone, backbones never see conditioner ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Metadata = dict[str, Any]
"""Raw description of one clip: prompt, seconds_total, padding_mask, path, ..."""

ConditionTensors = dict[str, tuple[Tensor, "Tensor | None"]]
"""Conditioner id -> (tensor, mask). Mask: (b l) bool, True = valid, or None."""


class Slot(str, Enum):
    """The ways in which a backbone takes conditioning.

    Attributes:
        field: the attribute of `Conditioning` with the tensor; `global` itself is a Python keyword.
        mask_field: the attribute with the mask of the slot's tokens; None for slots without tokens.
        has_frames: whether it holds channels over time (b c n), which follow the frames of x.
    """

    field: str
    mask_field: str | None
    has_frames: bool

    CROSS_ATTN = "cross_attn"
    GLOBAL = "global"
    PREPEND = "prepend"
    INPUT_CONCAT = "input_concat"
    LOCAL_ADD = "local_add"

    def __init__(self, name: str) -> None:
        self.field = "global_cond" if name == "global" else name
        self.mask_field = f"{name}_mask" if name in ("cross_attn", "prepend") else None
        self.has_frames = name in ("input_concat", "local_add")


@dataclass(frozen=True)
class Conditioning:
    """Conditioning of a batch, one tensor per slot; an unused slot is None.

    Attributes:
        cross_attn: (b l d).
        cross_attn_mask: (b l) bool, True = valid.
        global_cond: (b d).
        prepend: (b l d).
        prepend_mask: (b l) bool, True = valid.
        input_concat: (b c n).
        local_add: (b c n), added to the tokens of the same frames in every block.
        modular_local: id -> (b c n), as local_add but with layers of its own for each id; an absent id
            adds nothing.
        padding_mask: (b n) bool, True = sound, False = padding behind it; None: everything counts as sound.
            It belongs to x, so both branches of guidance get it.
        prepared: what the backbone's `prepare` computed once for a whole generation. Every method that
            changes a tensor drops it.
    """

    cross_attn: Tensor | None = None
    cross_attn_mask: Tensor | None = None
    global_cond: Tensor | None = None
    prepend: Tensor | None = None
    prepend_mask: Tensor | None = None
    input_concat: Tensor | None = None
    local_add: Tensor | None = None
    modular_local: Mapping[str, Tensor] | None = None
    padding_mask: Tensor | None = None
    prepared: object | None = None

    def slot(self, slot: Slot) -> Tensor | None:
        """The tensor in `slot`, or None."""
        return getattr(self, slot.field)

    def present(self) -> frozenset[Slot]:
        """The slots that hold a tensor."""
        return frozenset(s for s in Slot if self.slot(s) is not None)

    def shapes(self) -> dict[Slot, torch.Size]:
        """The shape of every slot that holds a tensor."""
        return {s: value.shape for s in Slot if (value := self.slot(s)) is not None}

    def replace(self, **changes: Any) -> Conditioning:
        """A copy with some fields changed; it has no `prepared` unless `changes` sets it."""
        return dataclasses.replace(self, **{"prepared": None, **changes})

    def map(self, fn: Callable[[Tensor], Tensor]) -> Conditioning:
        """Apply `fn` to every tensor, masks included."""
        tensors = {n: v for n, v in vars(self).items() if v is not None and n != "prepared"}
        return self.replace(**{n: _mapped(fn, v) for n, v in tensors.items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Move to `device`; floating-point tensors are cast to `dtype`, masks stay bool."""
        return self.map(lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None))

    def repeat(self, times: int) -> Conditioning:
        """Repeat the whole batch `times` times: items 0..b-1, 0..b-1, ..."""
        return self.map(lambda v: v.repeat(times, *([1] * (v.ndim - 1))))

    def index(self, items: Tensor | slice) -> Conditioning:
        """The batch items in `items`."""
        return self.map(lambda v: v[items])

    @staticmethod
    def cat(batches: Sequence[Conditioning]) -> Conditioning:
        """Join along the batch. Shorter token sequences are padded with zeros, which the mask excludes.

        Raises:
            ValueError: a slot is filled in some batches and empty in others.
        """
        present = [p.present() for p in batches]
        if len(set(present)) > 1:
            slots = [sorted(s.value for s in p) for p in present]
            raise ValueError(f"conditioning of different slots cannot be joined: {slots}")
        fields: dict[str, Any] = {}
        for slot in present[0]:
            if slot.mask_field is not None:
                fields.update(_cat_tokens(batches, slot.field, slot.mask_field))
            else:
                fields[slot.field] = torch.cat([getattr(p, slot.field) for p in batches])
        if modular := _cat_modular(batches):
            fields["modular_local"] = modular
        if any(p.padding_mask is not None for p in batches):
            fields["padding_mask"] = _cat_padding([p.padding_mask for p in batches])
        return Conditioning(**fields)


def _mapped(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    return fn(value) if isinstance(value, Tensor) else {name: fn(v) for name, v in value.items()}


def _cat_modular(batches: Sequence[Conditioning]) -> dict[str, Tensor]:
    by_id = [p.modular_local or {} for p in batches]
    if len({tuple(sorted(values)) for values in by_id}) > 1:
        ids = [sorted(values) for values in by_id]
        raise ValueError(f"conditioning of different modular_local ids cannot be joined: {ids}")
    return {name: torch.cat([values[name] for values in by_id]) for name in by_id[0]}


def _cat_padding(masks: Sequence[Tensor | None]) -> Tensor:
    present = [m for m in masks if m is not None]
    if len(present) < len(masks):
        raise ValueError("conditioning with and without a padding mask cannot be joined")
    return torch.cat(present)


def _cat_tokens(batches: Sequence[Conditioning], tokens: str, mask: str) -> dict[str, Tensor]:
    values = [getattr(p, tokens) for p in batches]
    masks = [getattr(p, mask) for p in batches]
    length = max(v.shape[1] for v in values)
    fields = {tokens: torch.cat([F.pad(v, (0, 0, 0, length - v.shape[1])) for v in values])}
    padded = any(v.shape[1] != length for v in values)
    if padded or any(m is not None for m in masks):
        full = [
            m if m is not None else v.new_ones(v.shape[:2], dtype=torch.bool) for v, m in zip(values, masks)
        ]
        fields[mask] = torch.cat([F.pad(m, (0, length - m.shape[1])) for m in full])
    return fields
