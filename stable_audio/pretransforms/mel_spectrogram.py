"""Mel magnitudes, which are decoded by solving for the magnitudes and estimating the phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.pretransforms.phase import peak_phases
from stable_audio.pretransforms.short_time import Layout, ShortTimeTransform


def mel_filters(
    n_mels: int, n_fft: int, sample_rate: int, f_min: float, f_max: float, break_hz: float = 700.0
) -> Tensor:
    """Triangular filters (n_mels n_fft/2+1) of equal area (Slaney), evenly spaced in log(1 + f/break_hz).

    700 Hz gives the HTK mel scale; less gives the low end more filters.
    """
    low, high = math.log1p(f_min / break_hz), math.log1p(f_max / break_hz)
    edges = break_hz * torch.expm1(torch.linspace(low, high, n_mels + 2, dtype=torch.float64))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rise, fall).clamp(min=0)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


LOUDEST = 1e5
"""Highest magnitude that mel spectrograms decode, 100 dB above full scale."""


class MelSpectrogramPretransform(ShortTimeTransform):
    """Mel magnitudes in decibels or to a power, for pictures and small models. Decoding estimates the phase.

    Decoding solves for non-negative magnitudes (multiplicative updates, Lee and Seung 1999), then runs
    the fast Griffin-Lim algorithm (Perraudin et al. 2013) from a phase drawn with a fixed seed or from
    sinusoids at the peaks: the same latents always give the same audio, but transients are smeared and the
    phase differs from the original.

    1d: (b c n) -> (b c*n_mels n/hop); 2d: (b c n_mels n/hop).

    Args:
        sample_rate: sample rate in Hz.
        n_mels: number of mel filters.
        f_min: lower end of the filters in Hz.
        f_max: upper end of the filters in Hz; None takes half the sample rate.
        break_hz: scale of the spacing of the filters, see `mel_filters`.
        floor_db: quietest level, mapped to -1; 0 dB is mapped to 1.
        power: exponent of magnitudes as values instead of decibels, whose errors are unbounded.
        mean: mean of these values over the data; latents are (value - mean) / std.
        std: standard deviation of these values over the data.
        interpolation: number of frames in decoding per latent frame, so that windows overlap enough for
            steady tones; a divisor of hop_length.
        initial_phase: "random" suits noise, "peaks" tones.
        iterations: iterations of Griffin-Lim.
        momentum: momentum of Griffin-Lim.
        seed: seed of Griffin-Lim's random phase.
    """

    filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        channels: int = 1,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        break_hz: float = 700.0,
        floor_db: float = -100.0,
        power: float | None = None,
        mean: float = 0.0,
        std: float = 1.0,
        interpolation: int = 1,
        initial_phase: Literal["random", "peaks"] = "random",
        iterations: int = 32,
        momentum: float = 0.99,
        seed: int = 0,
        layout: Layout = "1d",
        enable_grad: bool = False,
    ) -> None:
        super().__init__(
            n_fft=n_fft, hop_length=hop_length, channels=channels, layout=layout, enable_grad=enable_grad
        )
        top = sample_rate / 2 if f_max is None else f_max
        if not 0 <= f_min < top <= sample_rate / 2 or floor_db >= 0:
            raise ValueError(
                f"mel_spectrogram needs 0 <= f_min < f_max <= sample_rate / 2 and floor_db < 0, found "
                f"{f_min}, {top}, {sample_rate} and {floor_db}"
            )
        if (
            std <= 0
            or break_hz <= 0
            or (power is not None and power <= 0)
            or initial_phase not in ("random", "peaks")
        ):
            raise ValueError(
                f"mel_spectrogram needs std > 0, break_hz > 0, power > 0 and an initial_phase of 'random' or "
                f"'peaks', found {std}, {break_hz}, {power} and {initial_phase!r}"
            )
        self.sample_rate, self.floor_db = sample_rate, floor_db
        if interpolation < 1 or hop_length % interpolation or (n_fft - hop_length // interpolation) % 2:
            raise ValueError(
                f"mel_spectrogram needs an interpolation that divides hop_length into even steps, found "
                f"{interpolation} and {hop_length}"
            )
        self.interpolation = interpolation
        self.power, self.mean, self.std, self.initial_phase = power, mean, std, initial_phase
        self.iterations, self.momentum, self.seed = iterations, momentum, seed
        values = (floor_db, mean, std, -1 if power is None else power)
        self.settings = (sample_rate, n_fft, n_mels, *map(float, (f_min, top, break_hz, *values)), layout)
        filters = mel_filters(n_mels, n_fft, sample_rate, f_min, top, break_hz)
        self.register_buffer("filters", filters, persistent=False)
        self.declare(channels, n_mels)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        mels = self.filters.to(audio.dtype) @ self.stft(audio).abs()
        return self.fold((self._value(mels) - self.mean) / self.std)

    def decode(self, latents: Tensor) -> Tensor:
        values = self.unfold(latents).float() * self.std + self.mean
        if self.interpolation > 1:
            size = (values.shape[2], values.shape[3] * self.interpolation)
            values = F.interpolate(values, size=size, mode="bilinear", align_corners=False)
        # An untrained network may return any level, and squares of extreme values would overflow.
        mels = self._mels(values).clamp(max=LOUDEST)
        magnitude, hop = self._magnitude(mels), self.hop // self.interpolation
        audio = self.griffin_lim(
            magnitude,
            self._first_phase(magnitude, hop),
            iterations=self.iterations,
            momentum=self.momentum,
            hop=hop,
        )
        return audio.to(latents.dtype)

    def _value(self, mels: Tensor) -> Tensor:
        if self.power is not None:
            return mels**self.power
        return 1 - 2 * (20 * mels.clamp(min=10 ** (self.floor_db / 20)).log10()) / self.floor_db

    def _mels(self, value: Tensor) -> Tensor:
        if self.power is not None:
            return value.clamp(min=0) ** (1 / self.power)
        return 10 ** ((1 - value) * self.floor_db / 40)

    def _magnitude(self, mels: Tensor, steps: int = 50) -> Tensor:
        """Non-negative (b c bins n) whose mels come closest in least squares."""
        filters = self.filters.float()
        target = filters.T @ mels
        magnitude = target
        for _ in range(steps):
            magnitude = magnitude * target / (filters.T @ (filters @ magnitude)).clamp(min=1e-12)
        return magnitude

    def _first_phase(self, magnitude: Tensor, hop: int) -> Tensor:
        """Radians, shaped like `magnitude` or like one item of it."""
        if self.initial_phase == "peaks":
            return peak_phases(magnitude, n_fft=self.n_fft, hop=hop)
        generator = torch.Generator().manual_seed(self.seed)
        return 2 * math.pi * torch.rand(magnitude.shape[1:], generator=generator)
