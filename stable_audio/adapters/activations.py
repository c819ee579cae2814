"""The output of a layer with an update, without its updated weight.

With W frozen, V = W + k B A and the rescaled weight diag(p) V diag(q), the output is
p * ((q * x) W^T + k ((q * x) A^T) B^T): besides the layer's own product only products with `rank` columns.
The norms in p and q come from
|W_i + k B_i A|^2 = |W_i|^2 + 2 k B_i . (A W^T)_i + k^2 B_i (A A^T) B_i^T.
So training makes no matrix of the size of W: neither an updated weight nor its gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.adapters.rescaling import Rescaling, Scales
from stable_audio.adapters.updates import WeightUpdate, state_of
from stable_audio.nn.feedforward import ConvOverTokens, PointwiseConv
from stable_audio.nn.held import frozen_product, matrix_parts, widened
from stable_audio.nn.linear import Linear
from stable_audio.nn.precision import rounds

COMPUTED = "_factors"
"""Attribute of an update with (what its factors and scales depend on, these)."""

_LINEAR = (nn.Linear, Linear, PointwiseConv)
_CONVS = (nn.Conv1d, nn.Conv2d, ConvOverTokens)


def by_activations(cls: type[nn.Module], layer: nn.Module, rescaling: Rescaling) -> bool:
    """Whether the output of a layer can be had so.

    Layers whose class computes in its own way need the weight itself, unless `pads_only` says that the class
    changes its input alone. A convolution over several frames has one factor for each of them in its columns.

    Args:
        cls: the layer's class without updates.
    """
    if cls in _LINEAR:
        return True
    if cls not in _CONVS and not getattr(cls, "pads_only", False):
        return False
    kernel: Any = layer.kernel_size
    scales_inputs = any(axis == 0 for axis in rescaling.axes.values())
    return not scales_inputs or (math.prod(kernel) == 1 and bool(layer.groups == 1))


def is_linear(cls: type[nn.Module]) -> bool:
    """Whether the layers of a class are products with the last axis of their input."""
    return cls in _LINEAR


def linear_output(layer: Any, x: Tensor, update: WeightUpdate) -> Tensor:
    """x (... in) -> (... out)."""
    parts = matrix_parts(layer)
    factor = update.scaling * update.strength
    left, right, scales = _factors(update, parts, factor)
    x = x if scales.inputs is None else x * scales.inputs.to(x.dtype)
    y = _own_product(x, parts)
    term = F.linear(_times(F.linear(_as(right, x), right), factor), left)
    y = _plus(y, term.to(y.dtype))
    y = y if scales.outputs is None else _times(y, scales.outputs.to(y.dtype))
    return y if layer.bias is None else _plus(y, layer.bias.to(y.dtype))


def conv_output(layer: Any, forward: Any, x: Tensor, update: WeightUpdate) -> Tensor:
    """x (b in ...) -> (b out ...).

    Args:
        forward: (x, weight, bias) -> the convolution of the layer's class.
    """
    (weight,) = matrix_parts(layer)
    factor = update.scaling * update.strength
    left, right, scales = _factors(update, (weight,), factor)
    if scales.inputs is not None:
        x = x * _over_channels(scales.inputs, x)
    y = forward(x, weight, None)
    # Each group of outputs has the products of its own inputs with all of A.
    kernels = right.view(-1, *weight.shape[1:]).repeat(layer.groups, *[1] * (weight.ndim - 1))
    hidden = _times(forward(_as(right, x), kernels, None), factor)
    mixing = left.view(*left.shape, *[1] * (weight.ndim - 2))
    conv = F.conv1d if weight.ndim == 3 else F.conv2d
    y = _plus(y, conv(hidden, mixing.to(hidden.dtype), groups=layer.groups).to(y.dtype))
    y = y if scales.outputs is None else _times(y, _over_channels(scales.outputs, y))
    return y if layer.bias is None else _plus(y, _over_channels(layer.bias, y))


class FactoredSquares:
    """Sums of the squares of V = W + k B A from the factors; see `rescaling.Squares`.

    Args:
        parts: W (out, in), which has no gradient, as `frozen_product` takes it.
        left: B (out, rank).
        right: A (rank, in).
        factor: k.
        own_rows: |W_i|^2 (out,).
        own_columns: the same of columns (in,).
    """

    def __init__(
        self,
        parts: tuple[Tensor, ...],
        left: Tensor,
        right: Tensor,
        factor: float,
        *,
        own_rows: Tensor | None,
        own_columns: Tensor | None,
    ) -> None:
        self.parts, self.left, self.right, self.factor = parts, left, right, factor
        self.own_rows, self.own_columns = own_rows, own_columns

    def rows(self) -> Tensor:
        assert self.own_rows is not None
        crossed = (frozen_product(self.right, self.parts).T * self.left).sum(1)
        term = (self.left @ (self.right @ self.right.T) * self.left).sum(1)
        return self.own_rows + 2 * self.factor * crossed + self.factor**2 * term

    def columns(self, factors: Tensor | None = None) -> Tensor:
        own = self.own_columns if factors is None else weighted_squares(factors.square(), self.parts)
        assert own is not None
        left = self.left if factors is None else self.left * factors[:, None]
        left_twice = left if factors is None else left * factors[:, None]
        crossed = (frozen_product(left_twice.T, self.parts, transposed=True) * self.right).sum(0)
        term = (self.right * ((left.T @ left) @ self.right)).sum(0)
        return own + 2 * self.factor * crossed + self.factor**2 * term


def weighted_squares(weights: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """The sums (in,) of weights (out,) times the squares of a frozen matrix (out, in)."""
    sums: Tensor = _WeightedSquares.apply(weights, *parts)  # type: ignore[no-untyped-call]
    return sums


class _WeightedSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        return weights @ widened(parts, weights.dtype).square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        squares = widened(ctx.saved_tensors, gradient.dtype).square()
        return (squares @ gradient, *[None] * len(ctx.saved_tensors))


def _factors(update: WeightUpdate, parts: tuple[Tensor, ...], factor: float) -> tuple[Tensor, Tensor, Scales]:
    """The factors of an update and its scales. Without gradients they are computed once, until anything that
    they depend on changes: norms take products with the whole weight."""
    if torch.is_grad_enabled() or update.training or torch.compiler.is_compiling():
        return _computed(update, parts, factor)
    autocast = torch.is_autocast_enabled(parts[0].device.type)
    state = (autocast, *state_of(parts, (update,)))
    stored = update.__dict__.get(COMPUTED)
    if stored is None or stored[0] != state:
        stored = (state, _computed(update, parts, factor))
        update.__dict__[COMPUTED] = stored
    return stored[1]  # type: ignore[no-any-return]


def _computed(
    update: WeightUpdate, parts: tuple[Tensor, ...], factor: float
) -> tuple[Tensor, Tensor, Scales]:
    left, right = update.factors()
    return left, right, _scales(update, parts, left, right, factor)


def _scales(
    update: WeightUpdate, parts: tuple[Tensor, ...], left: Tensor, right: Tensor, factor: float
) -> Scales:
    if not update.rescaling.axes:
        return Scales()
    # Autocast would round the norms, whose quotients are near 1.
    with torch.autocast(left.device.type, enabled=False):
        vectors = {name: getattr(update, name) for name in update.rescaling.axes}
        squares = FactoredSquares(
            parts, left, right, factor, own_rows=update.row_squares, own_columns=update.column_squares
        )
        return update.rescaling.scales(squares, vectors)


def _plus(y: Tensor, other: Tensor) -> Tensor:
    """y + other, in the memory of y, which nothing else uses, where there are no gradients."""
    return y + other if torch.is_grad_enabled() else y.add_(other)


def _times(y: Tensor, other: Tensor | float) -> Tensor:
    """y * other, likewise."""
    return y * other if torch.is_grad_enabled() else y.mul_(other)


def _own_product(x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """The product with the layer's own weight, in the type in which it is held, returned in that of x."""
    if len(parts) > 1:
        return frozen_product(x, parts)
    weight = parts[0].flatten(1)
    return F.linear(x, weight) if rounds(x) else F.linear(x.to(weight.dtype), weight).to(x.dtype)


def _as(parameter: Tensor, x: Tensor) -> Tensor:
    """x in the type of an adapter's parameters, which autocast sees to by itself."""
    return x if rounds(x) else x.to(parameter.dtype)


def _over_channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
