"""Residual blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.unet.layers import ACTIVATIONS, conv, merged, norm, over_positions
from stable_audio.backbones.unet.options import BlockOptions
from stable_audio.nn.checkpointing import Checkpointed


class Modulation(nn.Module):
    """Vector (b e) -> its effect on h (b c *n): a summand, or scale and shift after the norm."""

    vector_layers = ("project",)

    def __init__(self, dims: int, features: int, channels: int, adaptive: bool, activation: str) -> None:
        super().__init__()
        self.dims, self.adaptive = dims, adaptive
        self.project = nn.Sequential(
            ACTIVATIONS[activation](), nn.Linear(features, channels * (2 if adaptive else 1))
        )

    def forward(self, vector: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        value = over_positions(self.project(vector), self.dims)
        if not self.adaptive:
            return value
        scale, shift = value.chunk(2, dim=1)
        return scale, shift


class BlockVector(NamedTuple):
    """A vector as an input of residual blocks.

    Attributes:
        features: its width; 0 = no vector.
        adaptive: whether it scales and shifts; otherwise it is added.
    """

    features: int = 0
    adaptive: bool = False


class ResBlock(Checkpointed):
    """Two convolutions around the injection of time and global features: (b c_in *n) -> (b c_out *n).

    `pre`: norm, activation, convolution (He et al., 2016); `post`: convolution, norm, activation. Each of
    the two vectors is added between the convolutions, or scales and shifts the second norm (adaptive).

    Args:
        options: kernel, norm, activation, dropout, residual sum.
        first: the vector of t.
        second: the global vector, if the blocks use it separately.
    """

    def __init__(
        self,
        dims: int,
        c_in: int,
        c_out: int,
        *,
        options: BlockOptions,
        first: BlockVector,
        second: BlockVector,
    ) -> None:
        super().__init__()
        norm_kind, groups, kernel = options.norm, options.group_count, options.kernel_size
        self.pre, self.normalized = options.norm_position == "pre", options.normalized
        self.norm1 = norm(norm_kind, groups, c_in if self.pre else c_out)
        self.conv1 = conv(dims, c_in, c_out, kernel)
        self.time = _modulation(dims, c_out, first, options.activation)
        self.globals = _modulation(dims, c_out, second, options.activation)
        self.norm2 = norm(norm_kind, groups, c_out)
        self.conv2 = conv(dims, c_out, c_out, kernel)
        self.activation = ACTIVATIONS[options.activation]()
        self.dropout = nn.Dropout(options.dropout)
        self.skip = nn.Identity() if c_in == c_out else conv(dims, c_in, c_out, 1)

    def compute(self, x: Tensor, time: Tensor | None, global_vector: Tensor | None) -> Tensor:
        if self.pre:
            h = self.conv1(self.activation(self.norm1(x)))
        else:
            h = self.activation(self.norm1(self.conv1(x)))
        pairs = ((self.time, time), (self.globals, global_vector))
        modulations = [layer(vector) for layer, vector in pairs if layer is not None and vector is not None]
        for modulation in modulations:
            h = h + modulation if isinstance(modulation, Tensor) else h
        if self.pre:
            h = self.activation(_scaled(self.norm2(h), modulations))
            h = self.conv2(self.dropout(h))
        else:
            h = _scaled(self.norm2(self.conv2(h)), modulations)
            h = self.dropout(self.activation(h))
        return merged(self.skip(x), h, self.normalized)


def _modulation(dims: int, channels: int, vector: BlockVector, activation: str) -> Modulation | None:
    if not vector.features:
        return None
    return Modulation(dims, vector.features, channels, vector.adaptive, activation)


def _scaled(h: Tensor, modulations: list[Tensor | tuple[Tensor, Tensor]]) -> Tensor:
    for modulation in modulations:
        if not isinstance(modulation, Tensor):
            h = h * (1 + modulation[0]) + modulation[1]
    return h


class NormOut(nn.Module):
    """Norm, activation, convolution: the last layers of most U-Nets."""

    def __init__(self, dims: int, c_in: int, c_out: int, *, kernel: int, options: BlockOptions) -> None:
        super().__init__()
        self.norm = norm(options.norm, options.group_count, c_in)
        self.activation = ACTIVATIONS[options.activation]()
        self.conv = conv(dims, c_in, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.activation(self.norm(x)))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize x (b c *n) to the positions of `like`, nearest neighbour."""
    return x if x.shape[2:] == like.shape[2:] else F.interpolate(x, size=like.shape[2:], mode="nearest")
