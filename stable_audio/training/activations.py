"""Measure the tensors that autograd keeps for the backward pass, on shapes: without memory or arithmetic."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning, Slot


def activation_bytes(model: DiffusionModel) -> int:
    """Bytes of the float32 tensors kept per training item, for a model on the meta device.

    Attention is counted as with a fused kernel, which keeps inputs and output, but not the score matrix.
    """
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    x = torch.empty(1, *model.latent_shape, device="meta")
    t = torch.empty(1, device="meta")
    model.backbone.train()
    with torch.autograd.graph.saved_tensors_hooks(save, lambda v: v), _FusedAttention():
        model.backbone(x, t, blank_conditioning(model))
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    return sum(v.untyped_storage().nbytes() for k, v in saved.items() if k not in weights)


def blank_conditioning(model: DiffusionModel) -> Conditioning:
    """Conditioning of one item on the meta device, in the shapes that the model's conditioners return."""
    fields: dict[str, Any] = {}
    for slot, width in model.backbone.slot_widths.items():
        ids = model.wiring.ids[slot]
        if ids:
            fields[slot.field] = torch.empty(1, *_shape(model, slot, ids, width), device="meta")
    frames, modular = model.latent_shape[1:], model.backbone.modular_local_dims
    by_id = {name: torch.empty(1, width, *frames, device="meta") for name, width in modular.items()}
    fields["modular_local"] = by_id or None
    return Conditioning(**fields)


def _shape(model: DiffusionModel, slot: Slot, ids: tuple[str, ...], width: int | None) -> tuple[int, ...]:
    conditioners: dict[str, Any] = (
        dict(model.conditioner.conditioners) if model.conditioner is not None else {}
    )
    parts = [conditioners[i] for i in ids if i in conditioners]
    summed: int = sum(c.output_dim for c in parts)
    if slot.has_frames:
        return (width or summed, *model.latent_shape[1:])
    if slot is Slot.GLOBAL:
        return (width or summed,)
    length = sum(_tokens(c) for c in parts) + len(ids) - len(parts)
    return (length, width or (parts[0].output_dim if parts else 1))


def _tokens(conditioner: Any) -> int:
    return 1 if getattr(conditioner, "pooled", False) else int(getattr(conditioner, "max_length", 1))


class _FusedAttention(TorchFunctionMode):
    """Replaces scaled_dot_product_attention by a function that saves the same tensors as a fused kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = args[:3]
            return _Attention.apply(query, key, value)
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """(b h l d) queries, keys, values -> an output of the right shape, with all four saved."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("shapes only")
