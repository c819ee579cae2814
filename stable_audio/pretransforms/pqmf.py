"""Pseudo quadrature mirror filters: a near-perfect bank of equal bands (Nguyen 1994, Yu et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.base import Pretransform

Array = np.ndarray


def kaiser_lowpass(cutoff: float, attenuation: float) -> Array:
    """Kaiser-windowed sinc of odd length, unscaled. Transition as wide as `cutoff` (radians/sample)."""
    taps = math.ceil((attenuation - 7.95) / (2.285 * cutoff) + 1)
    taps = 2 * (taps // 2) + 1
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    m = np.arange(taps) - (taps - 1) / 2
    return cutoff / np.pi * np.sinc(cutoff / np.pi * m) * np.kaiser(taps, beta)


def reconstruction_error(cutoff: float, attenuation: float, num_bands: int) -> float:
    """Largest autocorrelation at multiples of 2 * num_bands, which would be 0 for a perfect bank."""
    h = kaiser_lowpass(cutoff, attenuation)
    g = np.convolve(h, h[::-1])
    return float(np.abs(g[g.shape[0] // 2 :: 2 * num_bands][1:]).max(initial=0.0))


def minimise(fn: Callable[[float], float], start: float, tolerance: float = 1e-4) -> float:
    """Nelder-Mead in one dimension. The length of the filters depends on the result, so that checkpoints
    require exactly this method."""
    best, worst = sorted(((start, fn(start)), (start * 1.05, fn(start * 1.05))), key=lambda p: p[1])
    for _ in range(200):
        if abs(best[0] - worst[0]) <= tolerance and abs(best[1] - worst[1]) <= tolerance:
            break
        worst = _next_point(fn, best, worst)
        best, worst = sorted((best, worst), key=lambda p: p[1])
    return best[0]


def _next_point(
    fn: Callable[[float], float], best: tuple[float, float], worst: tuple[float, float]
) -> tuple[float, float]:
    def at(factor: float) -> tuple[float, float]:
        x = best[0] + factor * (best[0] - worst[0])
        return x, fn(x)

    reflected = at(1.0)
    if reflected[1] < best[1]:
        expanded = at(2.0)
        return expanded if expanded[1] < reflected[1] else reflected
    contracted = at(0.5) if reflected[1] < worst[1] else at(-0.5)
    limit = reflected[1] if reflected[1] < worst[1] else worst[1]
    shrunk = -0.5
    return contracted if contracted[1] <= limit else at(shrunk)


class _Bank(nn.Module):
    """The filters, under the names that checkpoints use."""

    prototype: Tensor
    filter_bank: Tensor

    def __init__(self, attenuation: float, num_bands: int) -> None:
        super().__init__()
        cutoff = minimise(lambda w: reconstruction_error(w, attenuation, num_bands), 1 / num_bands)
        h = kaiser_lowpass(cutoff, attenuation)
        k = np.arange(num_bands)[:, None]
        t = np.arange(-(h.shape[0] // 2), h.shape[0] // 2 + 1)
        phase = (-1.0) ** k * np.pi / 4
        bank = 2 * h * np.cos((2 * k + 1) * np.pi / (2 * num_bands) * t + phase)
        padding = 2 ** math.ceil(math.log2(h.shape[0])) - h.shape[0]
        bank = np.pad(bank, ((0, 0), (padding // 2, padding - padding // 2)))
        self.register_buffer("prototype", torch.from_numpy(h).float())
        self.register_buffer("filter_bank", torch.from_numpy(bank).float())


class PQMFPretransform(Pretransform):
    """(b c n) -> (b c*num_bands n/num_bands); zero-padded at the end to a multiple.

    Args:
        attenuation: attenuation of the stop band in dB; more means longer filters and smaller errors.
        num_bands: number of sub-bands, a power of two.
        channels: audio channels.
    """

    def __init__(
        self,
        *,
        attenuation: float = 100,
        num_bands: int = 16,
        channels: int = 1,
        enable_grad: bool = False,
    ) -> None:
        super().__init__(enable_grad=enable_grad)
        if num_bands < 2 or num_bands & (num_bands - 1):
            raise ValueError(f"num_bands of pqmf must be a power of two, found {num_bands}")
        if channels < 1 or attenuation <= 21:
            raise ValueError(
                f"pqmf needs channels >= 1 and attenuation > 21 dB, found {channels} and {attenuation}"
            )
        self.io_channels, self.num_bands = channels, num_bands
        self.encoded_channels, self.downsampling_ratio = channels * num_bands, num_bands
        self.pqmf = _Bank(attenuation, num_bands)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        padding = -audio.shape[-1] % self.num_bands
        audio = F.pad(audio, (0, padding)) if padding else audio
        b, c, n = audio.shape
        bank = self.pqmf.filter_bank.to(audio.dtype)
        # Decimated convolution, computed over phases, so that only the remaining samples are computed.
        phases = audio.reshape(b * c, n // self.num_bands, self.num_bands).mT
        kernel = bank.unflatten(1, (-1, self.num_bands)).mT
        bands = F.conv1d(phases, kernel, padding=kernel.shape[-1] // 2)[..., :-1]
        return self._mirror(bands).unflatten(0, (b, c)).flatten(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        b, _, n = latents.shape
        m, c = self.num_bands, self.io_channels
        bank = self.pqmf.filter_bank.to(latents.dtype).flip(-1)
        kernel = bank.unflatten(1, (-1, m)).permute(2, 0, 1)
        bands = self._mirror(latents.reshape(b * c, m, n))
        y = F.conv1d(bands, kernel, padding=kernel.shape[-1] // 2 + 1)[..., :-1] * m
        audio = y.flip(1).mT.reshape(b, c, -1)
        return audio[..., 2 * m :]

    def _mirror(self, bands: Tensor) -> Tensor:
        """Undo the frequency inversion of odd bands: change the sign of every other frame."""
        sign = torch.ones_like(bands[:1])
        sign[:, 1::2, ::2] = -1
        return bands * sign
