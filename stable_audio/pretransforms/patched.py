"""Fold patches of samples into channels, the cheapest way to shorten a sequence. Exact inverse."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.base import Pretransform


class SincResampler(nn.Module):
    """Rate conversion by `up / down` with a Hann-windowed sinc (six zero crossings, cutoff at 0.99).

    The kernel (up 1 taps) is a buffer, because checkpoints store it.
    """

    kernel: Tensor

    def __init__(self, *, up: int, down: int) -> None:
        super().__init__()
        divisor = math.gcd(up, down)
        self.up, self.down = up // divisor, down // divisor
        base, zeros = min(self.up, self.down) * 0.99, 6
        self.width = math.ceil(zeros * self.down / base)
        taps = torch.arange(-self.width, self.width + self.down, dtype=torch.float64) / self.down
        phase = -torch.arange(self.up, dtype=torch.float64)[:, None] / self.up
        t = ((taps + phase) * base).clamp(-zeros, zeros)
        kernel = torch.sinc(t) * torch.cos(t * math.pi / zeros / 2) ** 2 * (base / self.down)
        self.register_buffer("kernel", kernel[:, None].float())

    def forward(self, x: Tensor) -> Tensor:
        b, c, n = x.shape
        x = F.pad(x.reshape(b * c, 1, n), (self.width, self.width + self.down))
        y = F.conv1d(x, self.kernel.to(x.dtype), stride=self.down)
        y = y.transpose(1, 2).reshape(b, c, -1)
        return y[..., : math.ceil(self.up * n / self.down)]


class PatchedPretransform(Pretransform):
    """(b c (n p)) -> (b (c p) n). A length that is no multiple of `patch_size` is zero-padded at the end.

    Args:
        channels: audio channels.
        patch_size: samples per patch.
        oversampling: patches are taken at `oversampling` times the rate, so that each holds
            `patch_size * oversampling` values; the inverse is then only as exact as the resampling.
    """

    def __init__(
        self, *, channels: int, patch_size: int, oversampling: int = 1, enable_grad: bool = False
    ) -> None:
        super().__init__(enable_grad=enable_grad)
        if min(channels, patch_size, oversampling) < 1:
            raise ValueError(
                f"patched needs positive channels, patch_size and oversampling, found {channels}, "
                f"{patch_size}, {oversampling}"
            )
        self.io_channels = channels
        self.patch_size = patch_size * oversampling
        self.encoded_channels = channels * self.patch_size
        self.downsampling_ratio = patch_size
        self.input_upsampler: nn.Module = nn.Identity()
        self.output_downsampler: nn.Module = nn.Identity()
        if oversampling > 1:
            self.input_upsampler = SincResampler(up=oversampling, down=1)
            self.output_downsampler = SincResampler(up=1, down=oversampling)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        padding = -audio.shape[-1] % self.downsampling_ratio
        audio = self.input_upsampler(F.pad(audio, (0, padding)) if padding else audio)
        b, c, n = audio.shape
        return audio.reshape(b, c, n // self.patch_size, self.patch_size).transpose(2, 3).flatten(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        b, _, n = latents.shape
        patches = latents.reshape(b, self.io_channels, self.patch_size, n)
        audio = patches.transpose(2, 3).reshape(b, self.io_channels, n * self.patch_size)
        return self.output_downsampler(audio)
