"""Points between two noises and between two conditionings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stable_audio.types import Conditioning


def mixed_noise(a: Tensor, b: Tensor, shares: Sequence[float]) -> Tensor:
    """Noise on the arc from `a` to `b`, both (b c n) of unit variance, which the result has as well.

    cos(angle) a + sin(angle) b with the angle of a quarter turn times the share of `b`: spherical
    interpolation of independent draws, which are at right angles to each other in many dimensions.

    Args:
        shares: of `b`, 0 to 1, one per item; at 0 and 1 the result is `a` or `b` itself.
    """
    angles = [share * math.pi / 2 for share in shares]
    shape = (-1, *[1] * (a.ndim - 1))
    cos = a.new_tensor([0.0 if s == 1 else math.cos(v) for s, v in zip(shares, angles)]).view(shape)
    sin = a.new_tensor([1.0 if s == 1 else math.sin(v) for s, v in zip(shares, angles)]).view(shape)
    return cos * a + sin * b


def mixed_conditioning(a: Conditioning, b: Conditioning, shares: Sequence[float]) -> Conditioning:
    """Conditioning on the straight line from `a` to `b`, in every slot.

    Tokens are mixed position by position, and count where they count in either; the shorter text goes on with
    its padding, or with zeros.

    Args:
        shares: of `b`, 0 to 1, one per item.

    Raises:
        ValueError: `a` and `b` fill different slots.
    """
    count = len(shares)
    both = Conditioning.cat([a.replace(padding_mask=None), b.replace(padding_mask=None)])
    first, second = both.index(slice(None, count)), both.index(slice(count, None))
    changes: dict[str, Any] = {}
    for slot in both.present():
        old, new = first.slot(slot), second.slot(slot)
        assert old is not None
        assert new is not None
        changes[slot.field] = torch.lerp(old, new, _shares(shares, old))
        if slot.mask_field is not None and getattr(both, slot.mask_field) is not None:
            weights = torch.tensor(list(shares), device=old.device)[:, None]
            here, there = getattr(first, slot.mask_field).bool(), getattr(second, slot.mask_field).bool()
            changes[slot.mask_field] = (here & (weights < 1)) | (there & (weights > 0))
    if both.modular_local:
        assert first.modular_local is not None
        assert second.modular_local is not None
        changes["modular_local"] = {
            key: torch.lerp(value, second.modular_local[key], _shares(shares, value))
            for key, value in first.modular_local.items()
        }
    return a.replace(**changes)


def _shares(shares: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(list(shares)).view(-1, *[1] * (like.ndim - 1))
