"""Layers of SEANet: padded convolutions, residual blocks and an LSTM, under EnCodec's state names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.conv import WNConv1d, WNConvTranspose1d

Norm = Literal["none", "weight_norm", "time_group_norm"]


def pad_reflect(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Pad the last axis; reflection also works for inputs shorter than the padding."""
    if mode != "reflect":
        return F.pad(x, (left, right), mode=mode)
    shortage = max(0, max(left, right) - x.shape[-1] + 1)
    padded = F.pad(F.pad(x, (0, shortage)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - shortage]


class _Inner(nn.Module):
    """A convolution under the key `name`, followed by its norm."""

    def __init__(self, name: str, conv: nn.Module, norm: Norm, channels: int) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, conv)
        self.norm = nn.GroupNorm(1, channels) if norm == "time_group_norm" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.get_submodule(self.name)(x))


class PaddedConv(nn.Module):
    """Convolution that keeps length / stride: pads both sides, or the left alone when causal."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        *,
        norm: Norm,
        causal: bool,
        pad_mode: str,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        kind = WNConv1d if norm == "weight_norm" else nn.Conv1d
        conv = kind(channels_in, channels_out, kernel_size, stride=stride, dilation=dilation)
        self.conv = _Inner("conv", conv, norm, channels_out)
        self.span, self.stride = (kernel_size - 1) * dilation + 1, stride
        self.causal, self.pad_mode = causal, pad_mode

    def forward(self, x: Tensor) -> Tensor:
        total = self.span - self.stride
        frames = math.ceil((x.shape[-1] - self.span + total) / self.stride + 1)
        extra = (frames - 1) * self.stride + self.span - total - x.shape[-1]
        right = 0 if self.causal else total // 2
        return self.conv(pad_reflect(x, total - right, right + extra, self.pad_mode))


class TrimmedConvTranspose(nn.Module):
    """Transposed convolution to length * stride; `trim_right` of the surplus is cut on the right."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        *,
        stride: int,
        norm: Norm,
        causal: bool,
        trim_right: float,
    ) -> None:
        super().__init__()
        kind = WNConvTranspose1d if norm == "weight_norm" else nn.ConvTranspose1d
        conv = kind(channels_in, channels_out, kernel_size, stride=stride)
        self.convtr = _Inner("convtr", conv, norm, channels_out)
        surplus = kernel_size - stride
        self.right = math.ceil(surplus * trim_right) if causal else surplus // 2
        self.left = surplus - self.right

    def forward(self, x: Tensor) -> Tensor:
        y = self.convtr(x)
        return y[..., self.left : y.shape[-1] - self.right]


class ResidualBlock(nn.Module):
    """Two convolutions through a narrower width beside a shortcut."""

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int,
        dilation: int,
        compress: int,
        true_skip: bool,
        act: Callable[[], nn.Module],
        conv: Callable[..., PaddedConv],
    ) -> None:
        super().__init__()
        hidden = channels // compress
        self.block = nn.Sequential(
            act(),
            conv(channels, hidden, kernel_size, dilation=dilation),
            act(),
            conv(hidden, channels, 1),
        )
        self.shortcut = nn.Identity() if true_skip else conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class ResidualLSTM(nn.Module):
    """x + LSTM(x) along time, on (b c n)."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.permute(2, 0, 1))
        return x + y.permute(1, 2, 0)
