"""Inputs of a model without values, in the shapes that it gets in training and generation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning, Slot


def blank_conditioning(
    model: DiffusionModel, *, batch: int = 1, sample_size: int | None = None, device: str = "meta"
) -> Conditioning:
    """Conditioning of a batch without values, in the shapes that the model's conditioners return.

    Args:
        batch: items.
        sample_size: samples of a clip; None: the model's.
        device: device of the tensors.
    """
    like = _Empty(model, batch, model.sample_size if sample_size is None else sample_size, device)
    fields: dict[str, Any] = {}
    for slot, width in model.backbone.slot_widths.items():
        ids = model.wiring.ids[slot]
        if ids:
            fields[slot.field] = value = like.tensor(*_shape(model, slot, ids, width, like.frames))
            if slot.mask_field is not None:
                fields[slot.mask_field] = value.new_ones(value.shape[:2], dtype=torch.bool)
    modular = model.backbone.modular_local_dims
    by_id = {name: like.tensor(width, *like.frames) for name, width in modular.items()}
    fields["modular_local"] = by_id or None
    if model.mask_padding_attention:
        fields["padding_mask"] = like.tensor(like.frames[-1], dtype=torch.bool)
    return Conditioning(**fields)


class _Empty:
    """Makes tensors without values for a batch."""

    def __init__(self, model: DiffusionModel, batch: int, sample_size: int, device: str) -> None:
        self.frames = model.latent_shape_of(sample_size)[1:]
        self.batch, self.device = batch, device

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(self.batch, *shape, dtype=dtype, device=self.device)


def _shape(
    model: DiffusionModel, slot: Slot, ids: tuple[str, ...], width: int | None, frames: tuple[int, ...]
) -> tuple[int, ...]:
    conditioners: dict[str, Any] = (
        dict(model.conditioner.conditioners) if model.conditioner is not None else {}
    )
    parts = [conditioners[i] for i in ids if i in conditioners]
    summed: int = sum(c.output_dim for c in parts)
    if slot.has_frames:
        return (width or summed, *frames)
    if slot is Slot.GLOBAL:
        return (width or summed,)
    length = sum(_tokens(c) for c in parts) + len(ids) - len(parts)
    return (length, width or (parts[0].output_dim if parts else 1))


def _tokens(conditioner: Any) -> int:
    return 1 if getattr(conditioner, "pooled", False) else int(getattr(conditioner, "max_length", 1))
