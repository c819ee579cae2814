"""Activations of encoders and decoders, and their anti-aliased form."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.snake import SnakeBeta


def kaiser_lowpass(cutoff: float, half_width: float, kernel_size: int) -> Tensor:
    """Kaiser-windowed sinc low-pass (1 1 kernel_size) that sums to 1; cutoff in cycles per sample."""
    half = kernel_size // 2
    attenuation = 2.285 * (half - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = torch.kaiser_window(kernel_size, periodic=False, beta=beta)
    centre = 0.5 if kernel_size % 2 == 0 else 0.0
    time = torch.arange(kernel_size) - half + centre
    taps = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (taps / taps.sum()).view(1, 1, kernel_size)


class _Upsample(nn.Module):
    """Zero insertion by `ratio` and a low-pass, with replicated edges."""

    filter: Tensor

    def __init__(self, ratio: int, kernel_size: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.pad = kernel_size // ratio - 1
        self.crop_left = self.pad * ratio + (kernel_size - ratio) // 2
        self.crop_right = self.pad * ratio + (kernel_size - ratio + 1) // 2
        self.register_buffer("filter", kaiser_lowpass(0.5 / ratio, 0.6 / ratio, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x, (self.pad, self.pad), mode="replicate")
        taps = self.filter.to(x.dtype).expand(channels, -1, -1)
        x = self.ratio * F.conv_transpose1d(x, taps, stride=self.ratio, groups=channels)
        return x[..., self.crop_left : -self.crop_right]


class _Lowpass(nn.Module):
    """A low-pass followed by decimation by `ratio`, with replicated edges."""

    filter: Tensor

    def __init__(self, ratio: int, kernel_size: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.pads = (kernel_size // 2 - (kernel_size % 2 == 0), kernel_size // 2)
        self.register_buffer("filter", kaiser_lowpass(0.5 / ratio, 0.6 / ratio, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        x = F.pad(x, self.pads, mode="replicate")
        taps = self.filter.to(x.dtype).expand(channels, -1, -1)
        return F.conv1d(x, taps, stride=self.ratio, groups=channels)


class _Downsample(nn.Module):
    def __init__(self, ratio: int, kernel_size: int) -> None:
        super().__init__()
        self.lowpass = _Lowpass(ratio, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class AntiAliased(nn.Module):
    """An activation at twice the rate: up x2, activation, down x2 (Karras et al. 2021, BigVGAN)."""

    def __init__(self, act: nn.Module, *, ratio: int = 2, kernel_size: int = 12) -> None:
        super().__init__()
        self.act = act
        self.upsample = _Upsample(ratio, kernel_size)
        self.downsample = _Downsample(ratio, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


def make_activation(channels: int, *, use_snake: bool, antialias: bool = False) -> nn.Module:
    """SnakeBeta or ELU, optionally anti-aliased."""
    act: nn.Module = SnakeBeta(channels) if use_snake else nn.ELU()
    return AntiAliased(act) if antialias else act
