"""The branches of guidance: what the network is run with besides the conditioning itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stable_audio.types import Conditioning, Slot

logger = logging.getLogger(__name__)

EVERY_SLOT = "all"
"""Stands for the names of all slots."""


class GuidedBackbone(Protocol):
    """The part of a backbone that guidance uses."""

    default_scale_phi: float
    masks_attention: bool

    @property
    def droppable(self) -> tuple[Slot, ...]: ...

    def __call__(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor: ...
    def null(self, cond: Conditioning) -> Conditioning | None: ...
    def drop(self, cond: Conditioning, keep: dict[Slot, Tensor]) -> Conditioning: ...
    def prepare(self, cond: Conditioning) -> Conditioning: ...


def slots_named(names: Sequence[str] | None) -> tuple[Slot, ...]:
    """The slots of these names, "all" for every one; None: cross-attention.

    Raises:
        ValueError: a name that no slot has.
    """
    if names is None:
        return (Slot.CROSS_ATTN,)
    known = [slot.value for slot in Slot]
    for name in names:
        if name not in (*known, EVERY_SLOT):
            raise ValueError(
                f"there is no slot '{name}'; slots: {', '.join(known)}, or '{EVERY_SLOT}' for each"
            )
    return tuple(Slot) if EVERY_SLOT in names else tuple(Slot(name) for name in names)


@dataclass(frozen=True)
class Branches:
    """Conditionings from all of it to the null conditioning, each with less than the one before.

    Attributes:
        conds: two or more.
        weights: guidance weight of the difference of each two neighbours; None stands for cfg_scale.
    """

    conds: tuple[Conditioning, ...]
    weights: tuple[float | None, ...]


def branches(
    cond: Conditioning,
    null: Conditioning,
    slot_scales: Mapping[str, float] | None = None,
) -> Branches:
    """The branches from `cond` to `null`.

    With slot_scales, the slots come back one after the other, as the image and the text of Brooks et al.
    2023, "InstructPix2Pix", equation 3: first those that are not named, by the weight cfg_scale, then the
    named ones in their order, each by its own weight.

    Raises:
        ValueError: a slot that is the same in both, so that it has no guidance.
    """
    if not slot_scales:
        return Branches((cond, null), (None,))
    different = [slot for slot in Slot if _differs(cond, null, slot)]
    named = slots_named(list(slot_scales))
    for slot in named:
        if slot not in different:
            usable = ", ".join(s.value for s in different)
            raise ValueError(
                f"slot_scales: the model has nothing to put in place of the conditioning in '{slot.value}'; "
                f"it has for {usable}. Negative conditioning can take its place, if negative_slots name it"
            )
    rest = [slot for slot in different if slot not in named]
    conds: list[Conditioning] = [null]
    weights: list[float | None] = []
    for group, weight in [(rest, None), *(([slot], slot_scales[slot.value]) for slot in named)]:
        if group:
            fields = {name: value for slot in group for name, value in _fields(cond, slot).items()}
            conds.append(conds[-1].replace(**fields))
            weights.append(weight)
    return Branches((cond, *conds[-2::-1]), tuple(weights[::-1]))


def _differs(cond: Conditioning, null: Conditioning, slot: Slot) -> bool:
    return any(value is not getattr(null, name) for name, value in _fields(cond, slot).items())


def _fields(cond: Conditioning, slot: Slot) -> dict[str, object]:
    """The fields of a slot; the local conditioning of single ids goes with the one that is joined."""
    names = [slot.field, *([slot.mask_field] if slot.mask_field else [])]
    names += ["modular_local"] if slot is Slot.LOCAL_ADD else []
    return {name: getattr(cond, name) for name in names}


def unconditional(
    backbone: GuidedBackbone,
    cond: Conditioning,
    negative: Conditioning | None = None,
    negative_slots: Sequence[Slot] = (Slot.CROSS_ATTN,),
) -> Conditioning | None:
    """Null conditioning, with `negative` in `negative_slots`; None if there is nothing to drop."""
    changes: dict[str, object] = {}
    if negative is None:
        return backbone.null(cond)
    for slot in negative_slots:
        changes.update(_replacement(cond, negative, slot, uses_mask=backbone.masks_attention))
    changed = cond.replace(**changes)
    null = backbone.null(changed) or (changed if changes else None)
    if null is None or not changes:
        slots = [s.value for s in negative_slots]
        logger.warning("negative conditioning has no effect: the backbone cannot take it in %s", slots)
        return null
    for slot in negative_slots:
        name, mask_name = slot.field, slot.mask_field
        value, fallback = negative.slot(slot), null.slot(slot)
        if name not in changes or value is None:
            continue
        mask = getattr(negative, mask_name) if mask_name else None
        if mask is not None and fallback is not None:
            value = value.where(mask.bool().unsqueeze(-1), fallback.to(value.dtype))
        null = null.replace(**{name: value})
    return null


def _replacement(
    cond: Conditioning, negative: Conditioning, slot: Slot, *, uses_mask: bool
) -> dict[str, object]:
    """The fields of `cond` that `negative` replaces in `slot`.

    Args:
        uses_mask: whether the backbone masks attention. If so, the mask is replaced with the tokens;
            otherwise only if their number differs.
    """
    name, mask_name = slot.field, slot.mask_field
    old, new = cond.slot(slot), negative.slot(slot)
    local = slot is Slot.LOCAL_ADD and cond.modular_local is not None and negative.modular_local is not None
    changes: dict[str, object] = {"modular_local": negative.modular_local} if local else {}
    if old is None or new is None:
        return changes
    changes[name] = new
    if mask_name is not None and (old.shape[1] != new.shape[1] or uses_mask):
        changes[mask_name] = getattr(negative, mask_name)
    return changes
