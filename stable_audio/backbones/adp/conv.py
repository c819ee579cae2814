"""Convolutions, residual blocks and patching. Module names are the keys of published checkpoints."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed


class PaddedConv1d(nn.Conv1d):
    """Strided convolution to length n / stride; pads x with kernel - stride zeros, more of them left."""

    pads_only: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        total = self.kernel_size[0] - self.stride[0]
        return super().forward(F.pad(x, (total - total // 2, total // 2)))


class TrimmedConvTranspose1d(nn.ConvTranspose1d):
    """Transposed convolution to length n * stride; cuts kernel - stride samples, more of them left."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        total = self.kernel_size[0] - self.stride[0]
        y = super().forward(x, output_size)
        return y[..., total - total // 2 : y.shape[-1] - total // 2]


def downsample(c_in: int, c_out: int, factor: int, kernel_multiplier: int) -> nn.Module:
    """(b c_in n) -> (b c_out n / factor)."""
    return PaddedConv1d(c_in, c_out, factor * kernel_multiplier + 1, stride=factor)


def upsample(c_in: int, c_out: int, factor: int, nearest: bool) -> nn.Module:
    """(b c_in n) -> (b c_out n * factor)."""
    if factor == 1:
        return PaddedConv1d(c_in, c_out, 3)
    if nearest:
        return nn.Sequential(nn.Upsample(scale_factor=factor, mode="nearest"), PaddedConv1d(c_in, c_out, 3))
    return TrimmedConvTranspose1d(c_in, c_out, 2 * factor, stride=factor)


class ConvBlock(nn.Module):
    """GroupNorm, scale and shift, SiLU, convolution of width 3."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.groupnorm = nn.GroupNorm(groups, c_in)
        self.project = PaddedConv1d(c_in, c_out, 3)

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.groupnorm(x)
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.project(F.silu(x))


class ScaleShift(nn.Module):
    """Mapping (b d) -> scale and shift (b c 1)."""

    vector_layers = ("to_scale_shift",)

    def __init__(self, features: int, channels: int) -> None:
        super().__init__()
        self.to_scale_shift = nn.Sequential(nn.SiLU(), nn.Linear(features, 2 * channels))

    def forward(self, mapping: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.to_scale_shift(mapping)[:, :, None].chunk(2, dim=1)
        return scale, shift


class ResnetBlock(Checkpointed):
    """Two ConvBlocks, the second modulated by the mapping, and a skip: (b c_in n) -> (b c_out n)."""

    def __init__(self, c_in: int, c_out: int, *, groups: int, mapping_features: int | None) -> None:
        super().__init__()
        self.block1 = ConvBlock(c_in, c_out, groups)
        self.to_scale_shift = ScaleShift(mapping_features, c_out) if mapping_features else None
        self.block2 = ConvBlock(c_out, c_out, groups)
        self.to_out = nn.Identity() if c_in == c_out else PaddedConv1d(c_in, c_out, 1)

    def compute(self, x: Tensor, mapping: Tensor | None) -> Tensor:
        scale_shift = None
        if self.to_scale_shift is not None:
            if mapping is None:
                raise ValueError("this U-Net needs time or global features, but none were given")
            scale_shift = self.to_scale_shift(mapping)
        return self.block2(self.block1(x), scale_shift) + self.to_out(x)


class Patcher(nn.Module):
    """(b c n) -> (b c_out n / patch): a block, then `patch` neighbours folded into channels."""

    def __init__(self, c_in: int, c_out: int, patch: int, mapping_features: int | None) -> None:
        super().__init__()
        self.patch = patch
        self.block = ResnetBlock(c_in, c_out // patch, groups=1, mapping_features=mapping_features)

    def forward(self, x: Tensor, mapping: Tensor | None) -> Tensor:
        x = self.block(x, mapping)
        b, c, n = x.shape
        folded = x.view(b, c, n // self.patch, self.patch).transpose(2, 3)
        return folded.reshape(b, c * self.patch, n // self.patch)


class Unpatcher(nn.Module):
    """(b c n) -> (b c_out n * patch): channels unfolded into `patch` neighbours, then a block."""

    def __init__(self, c_in: int, c_out: int, patch: int, mapping_features: int | None) -> None:
        super().__init__()
        self.patch = patch
        self.block = ResnetBlock(c_in // patch, c_out, groups=1, mapping_features=mapping_features)

    def forward(self, x: Tensor, mapping: Tensor | None) -> Tensor:
        b, c, n = x.shape
        unfolded = x.view(b, c // self.patch, self.patch, n).transpose(2, 3)
        return self.block(unfolded.reshape(b, c // self.patch, n * self.patch), mapping)


class NumberFeatures(nn.Module):
    """(b,) -> (b d + 1): the number, then sines and cosines of learned frequencies."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(features // 2))

    def forward(self, t: Tensor) -> Tensor:
        t = t.float()[:, None]
        angle = 2 * torch.pi * t * self.weights.float()
        return torch.cat([t, angle.sin(), angle.cos()], dim=-1).to(self.weights.dtype)
