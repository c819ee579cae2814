"""Layers that come in one and two dimensions. Shapes are written (b c *n), *n being n or h w."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ActivationName = Literal["silu", "gelu", "relu", "mish"]
DownsampleName = Literal["conv", "max", "avg"]
UpsampleName = Literal["nearest", "linear", "transposed"]
NormName = Literal["group", "rms"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "mish": nn.Mish,
}
_CONV = {1: nn.Conv1d, 2: nn.Conv2d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
_MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
_AVG_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d}
_LINEAR = {1: "linear", 2: "bilinear"}


def conv(dims: int, c_in: int, c_out: int, kernel: int) -> nn.Module:
    """(b c_in *n) -> (b c_out *n); `kernel` is odd."""
    return _CONV[dims](c_in, c_out, kernel, padding=kernel // 2)


class ChannelRMSNorm(nn.Module):
    """x (b c *n) over the root mean square of its channels, at each position, times a learned gain.

    Zhang and Sennrich, 2019, equation 4. Computed in float32.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + self.eps)
        gain = self.weight.float().view(-1, *[1] * (x.ndim - 2))
        return (wide * scale * gain).to(x.dtype)


def norm(kind: str, groups: int, channels: int, eps: float = 1e-5) -> nn.Module:
    """The norm of (b c *n) named `kind`; `groups` matters to group norm only."""
    return nn.GroupNorm(groups, channels, eps=eps) if kind == "group" else ChannelRMSNorm(channels)


class StridedConv(nn.Module):
    """(b c *n) -> (b c_out *n / factor): pads kernel - factor zeros, more of them in front."""

    def __init__(self, dims: int, c_in: int, c_out: int, kernel: int, factor: int) -> None:
        super().__init__()
        self.conv = _CONV[dims](c_in, c_out, kernel, stride=factor)
        total = kernel - factor
        self.pad = (total - total // 2, total // 2) * dims

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad))


class TransposedConv(nn.Module):
    """(b c *n) -> (b c_out *n * factor): cuts kernel - factor samples, more of them in front."""

    def __init__(self, dims: int, c_in: int, c_out: int, kernel: int, factor: int) -> None:
        super().__init__()
        self.conv = _TRANSPOSED[dims](c_in, c_out, kernel, stride=factor)
        self.dims, self.factor = dims, factor
        total = kernel - factor
        self.start = total - total // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        for axis in range(-self.dims, 0):
            y = y.narrow(axis, self.start, x.shape[axis] * self.factor)
        return y


class Interpolate(nn.Module):
    """(b c *n) -> (b c *n * factor)."""

    def __init__(self, factor: int, mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=float(self.factor), mode=self.mode)


def downsample(dims: int, c_in: int, c_out: int, *, kind: str, kernel: int, factor: int) -> nn.Module:
    """(b c_in *n) -> (b c_out *n / factor). Pooling is followed by a 1x1 convolution if widths differ."""
    if kind == "conv":
        return StridedConv(dims, c_in, c_out, kernel, factor)
    pool = (_MAX_POOL if kind == "max" else _AVG_POOL)[dims](factor)
    return pool if c_in == c_out else nn.Sequential(pool, conv(dims, c_in, c_out, 1))


def upsample(dims: int, c_in: int, c_out: int, *, kind: str, kernel: int, factor: int) -> nn.Module:
    """(b c_in *n) -> (b c_out *n * factor). Interpolation is followed by a convolution."""
    if kind == "transposed":
        return TransposedConv(dims, c_in, c_out, kernel, factor)
    mode = "nearest" if kind == "nearest" else _LINEAR[dims]
    return nn.Sequential(Interpolate(factor, mode), conv(dims, c_in, c_out, kernel))


def over_positions(vector: Tensor, dims: int) -> Tensor:
    """(b c) -> (b c 1) or (b c 1 1), to be broadcast over positions."""
    return vector.reshape(*vector.shape, *[1] * dims)


def merged(x: Tensor, h: Tensor, normalized: bool) -> Tensor:
    """x + h, divided by sqrt(2) when `normalized`, which keeps the variance of independent terms."""
    return (x + h) * math.sqrt(0.5) if normalized else x + h
