"""Convolutions with weight normalisation under the checkpoint names `weight_g` and `weight_v`.

Salimans and Kingma 2016: w = g * v / ||v||, the norm taken over every axis but the first. Folding
computes w once with the same kernel, so a folded layer gives bit-identical output and is faster.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class _WeightNorm(nn.Module):
    """Mixin for the convolution classes: replaces the parameter `weight` by `weight_g`, `weight_v`."""

    weight: Any
    weight_g: nn.Parameter
    weight_v: nn.Parameter

    def _split_weight(self) -> None:
        weight = self._parameters.pop("weight")
        assert weight is not None
        axes = tuple(range(1, weight.ndim))
        norm = torch.linalg.vector_norm(weight.detach(), dim=axes, keepdim=True)
        self.weight_g = nn.Parameter(norm)
        self.weight_v = nn.Parameter(weight.detach().clone())

    @property
    def folded(self) -> bool:
        """Whether the layer holds a plain `weight`."""
        return "weight" in self._parameters

    def effective_weight(self) -> Tensor:
        """The weight that the convolution uses."""
        if "weight" in self._parameters:
            return self.weight
        return torch._weight_norm(self.weight_v, self.weight_g, 0)

    def fold(self) -> None:
        """Replace `weight_g`, `weight_v` by the plain `weight`; does nothing if folded already."""
        if "weight" in self._parameters:
            return
        trained = self.weight_v.requires_grad
        weight = torch._weight_norm(self.weight_v.detach(), self.weight_g.detach(), 0)
        del self.weight_g, self.weight_v
        self.weight = nn.Parameter(weight, requires_grad=trained)


class WNConv1d(_WeightNorm, nn.Conv1d):
    """`nn.Conv1d` with weight normalisation."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split_weight()

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


class WNConv2d(_WeightNorm, nn.Conv2d):
    """`nn.Conv2d` with weight normalisation."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split_weight()

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


class WNConvTranspose1d(_WeightNorm, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` with weight normalisation; the first axis of its weight is the input."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._split_weight()

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None:
            raise ValueError("WNConvTranspose1d takes no output_size; use output_padding instead")
        return nn.functional.conv_transpose1d(
            x,
            self.effective_weight(),
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.output_padding,
            self.groups,
            self.dilation,
        )


def fold_weight_norm(module: Module) -> Module:
    """Fold every weight-normalised layer below `module`, in place; the output does not change."""
    for layer in module.modules():
        if isinstance(layer, _WeightNorm):
            layer.fold()
    return module


def fold_as_stored(module: Module, keys: Collection[str]) -> int:
    """Fold the weight-normalised layers below `module` whose plain `weight` is among `keys`.

    Args:
        module: changed in place.
        keys: names of stored weights, in the naming of `module`.

    Returns:
        number of layers folded by this call.
    """
    count = 0
    for name, layer in module.named_modules():
        plain = f"{name}.weight" if name else "weight"
        if isinstance(layer, _WeightNorm) and plain in keys and not layer.folded:
            layer.fold()
            count += 1
    return count


def has_folded(module: nn.Module) -> bool:
    """Whether any weight-normalised layer below `module` is folded."""
    return any(isinstance(layer, _WeightNorm) and layer.folded for layer in module.modules())
