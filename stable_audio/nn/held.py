"""Frozen weights of linear layers in 8 or 4 bits, and products that keep no wider copy of a frozen weight.

Autograd would keep a weight that was widened for a product until the backward pass. `frozen_product` widens
it twice instead, as in QLoRA (Dettmers et al. 2023, section 3).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from stable_audio.nn.linear import Linear
from stable_audio.nn.mixing import mix_in
from stable_audio.optim.torchao_classes import importing

Bits = Literal[8, 4]

LEAST_WEIGHTS = 4096
"""Smaller matrices stay as they are."""

GROUP = 32
"""Inputs that share a scale in 4 bits; in 8 bits a whole row does."""

HELD = "held_weight"
"""Name of the part of a layer that holds its quantised weight."""


class HeldWeight(nn.Module):
    """A matrix (out, in) in 8 bits with a scale per row, or in 4 bits with one per `GROUP` inputs.

    Its buffers are no part of a state: a run that goes on quantises the weight again.

    Args:
        weight: the matrix (out, in); for 4 bits, `in` is a multiple of `GROUP`.
        bits: of each value.

    Raises:
        ImportError: torchao, which rounds, is not installed.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, weight: Tensor, bits: Bits) -> None:
        super().__init__()
        self.shape, self.bits = tuple(weight.shape), bits
        values, scale, offset = _quantised(weight.detach().float(), bits)
        if bits == 4:
            values = values[:, ::2] | (values[:, 1::2] << 4)
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves between devices; scales keep their type when a model is converted to another."""
        moved = super()._apply(fn, recurse)
        self.scale, self.offset = self.scale.float(), self.offset.float()
        return moved

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """What `widened` takes."""
        return self.values, self.scale, self.offset


def widened(parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """The matrix (out, in) of a plain weight, alone, or of `HeldWeight.parts`."""
    if len(parts) == 1:
        return parts[0].flatten(1).to(dtype)
    values, scale, offset = parts
    if values.dtype is torch.uint8:
        values = torch.stack((values & 15, values >> 4), dim=-1).flatten(1)
    grouped = values.unflatten(1, (scale.shape[1], -1)).float()
    return ((grouped - offset[..., None]) * scale[..., None]).flatten(1).to(dtype)


def matrix_parts(layer: nn.Module) -> tuple[Tensor, ...]:
    """The weight of a layer, as `widened` and `frozen_product` take it."""
    held = layer._modules.get(HELD)
    if isinstance(held, HeldWeight):
        return held.parts
    weight = layer._parameters["weight"]
    assert weight is not None
    return (weight,)


def frozen_product(x: Tensor, parts: tuple[Tensor, ...], *, transposed: bool = False) -> Tensor:
    """x (... in) times a matrix without a gradient: x W^T (... out).

    Nothing but `parts` is kept for the gradient of x.

    Args:
        parts: W (out, in), see `matrix_parts`.
        transposed: give x W (... in) for x (... out).
    """
    product: Tensor = _FrozenProduct.apply(x, transposed, *parts)  # type: ignore[no-untyped-call]
    return product


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, transposed: bool, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        ctx.transposed, ctx.count = transposed, len(parts)
        matrix = widened(parts, x.dtype)
        return x @ (matrix if transposed else matrix.T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        matrix = widened(ctx.saved_tensors, gradient.dtype)
        return (gradient @ (matrix.T if ctx.transposed else matrix), None, *[None] * ctx.count)


def can_hold(layer: nn.Module, bits: Bits) -> bool:
    """Whether a layer is a linear one whose weight can be quantised."""
    weight = layer._parameters.get("weight") if type(layer) in (nn.Linear, Linear) else None
    if weight is None or weight.numel() < LEAST_WEIGHTS:
        return False
    return bits == 8 or weight.shape[1] % GROUP == 0


def hold(layer: nn.Module, bits: Bits) -> None:
    """Quantise the weight of a layer that `can_hold`, in place. Its state has no `weight` any more."""
    weight = layer._parameters["weight"]
    assert weight is not None
    held = HeldWeight(weight, bits)
    del layer._parameters["weight"]
    layer.add_module(HELD, held)
    mix_in(layer, _Quantised)


class _Quantised:
    """Mixed into the class of a linear layer whose weight is quantised."""

    @property
    def weight(self: Any) -> Tensor:
        return widened(matrix_parts(self), torch.float32)

    def forward(self: Any, x: Tensor) -> Tensor:
        product = frozen_product(x, matrix_parts(self))
        return product if self.bias is None else product + self.bias.to(product.dtype)


def _quantised(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor, Tensor]:
    """Values (out, in), scales and offsets (out, groups)."""
    with importing("torchao.quantization", needed_by=f"weights in {bits} bits"):
        from torchao.quantization.quant_primitives import (
            MappingType,
            choose_qparams_affine,
            quantize_affine,
        )
    size = weight.shape[1] if bits == 8 else GROUP
    kind = MappingType.SYMMETRIC if bits == 8 else MappingType.ASYMMETRIC
    least, most = (-128, 127) if bits == 8 else (0, 15)
    dtype = torch.int8 if bits == 8 else torch.uint8
    scale, offset = choose_qparams_affine(
        weight, kind, (1, size), dtype, least, most, scale_dtype=torch.float32
    )
    values = quantize_affine(weight, (1, size), scale, offset, dtype, least, most)
    groups = (weight.shape[0], weight.shape[1] // size)
    return values, scale.reshape(groups).float(), offset.reshape(groups).float()
