"""Mel magnitudes as latents, which are not exactly invertible."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.phase import peak_phases
from stable_audio.pretransforms.short_time import FrameOptions, ShortTimeTransform


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


@dataclass(frozen=True, kw_only=True)
class MelBands:
    """The filters of a mel spectrogram.

    Attributes:
        n_mels: number of mel filters.
        f_min: lower end of the filters in Hz.
        f_max: upper end of the filters in Hz; None takes half the sample rate.
        break_hz: scale of the spacing of the filters, see `mel_filters`.
    """

    n_mels: int = 80
    f_min: float = 0.0
    f_max: float | None = None
    break_hz: float = 700.0

    def top(self, sample_rate: int) -> float:
        """Upper end of the filters in Hz."""
        top = sample_rate / 2 if self.f_max is None else self.f_max
        if not 0 <= self.f_min < top <= sample_rate / 2:
            raise ValueError(
                f"mel_spectrogram needs 0 <= f_min < f_max <= sample_rate / 2, found f_min {self.f_min}, "
                f"f_max {top} and sample_rate {sample_rate}"
            )
        if self.break_hz <= 0:
            raise ValueError(f"mel_spectrogram needs break_hz > 0, found {self.break_hz}")
        return top


@dataclass(frozen=True, kw_only=True)
class MelValues:
    """Mapping of the magnitudes of mel bands to latents.

    Attributes:
        floor_db: quietest level, mapped to -1; 0 dB is mapped to 1.
        power: exponent of magnitudes as values instead of decibels, whose errors are unbounded.
        mean: mean of these values over the data; latents are (value - mean) / std.
        std: standard deviation of these values over the data.
    """

    floor_db: float = -100.0
    power: float | None = None
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.floor_db >= 0:
            raise ValueError(f"mel_spectrogram needs floor_db < 0, found {self.floor_db}")
        if self.std <= 0 or (self.power is not None and self.power <= 0):
            raise ValueError(
                f"mel_spectrogram needs std > 0 and power > 0, found {self.std} and {self.power}"
            )

    @property
    def settings(self) -> tuple[float, ...]:
        """Numbers that identify the mapping; -1 stands for decibels."""
        return self.floor_db, self.mean, self.std, -1 if self.power is None else self.power

    def of(self, mels: Tensor) -> Tensor:
        """Magnitudes -> latents."""
        return (self._value(mels) - self.mean) / self.std

    def _value(self, mels: Tensor) -> Tensor:
        if self.power is not None:
            return mels**self.power
        return 1 - 2 * (20 * mels.clamp(min=10 ** (self.floor_db / 20)).log10()) / self.floor_db

    def mels(self, value: Tensor) -> Tensor:
        """Values, which are latents * std + mean, -> magnitudes."""
        if self.power is not None:
            return value.clamp(min=0) ** (1 / self.power)
        return 10 ** ((1 - value) * self.floor_db / 40)


@dataclass(frozen=True, kw_only=True)
class InversionOptions:
    """Options of the estimation of the phase in decoding.

    Attributes:
        interpolation: number of frames in decoding per latent frame, so that windows overlap enough for
            steady tones; a divisor of hop_length.
        initial_phase: "random" suits noise, "peaks" tones.
        iterations: iterations of Griffin-Lim.
        momentum: momentum of Griffin-Lim.
        seed: seed of Griffin-Lim's random phase.
    """

    interpolation: int = 1
    initial_phase: Literal["random", "peaks"] = "random"
    iterations: int = 32
    momentum: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if self.initial_phase not in ("random", "peaks"):
            raise ValueError(
                f"mel_spectrogram needs an initial_phase of 'random' or 'peaks', found {self.initial_phase!r}"
            )

    def check(self, frames: FrameOptions) -> None:
        """Raise ValueError if `interpolation` does not fit the frames."""
        steps, hop = self.interpolation, frames.hop_length
        if steps < 1 or hop % steps or (frames.n_fft - hop // steps) % 2:
            raise ValueError(
                f"mel_spectrogram needs an interpolation that divides hop_length into even steps, found "
                f"{steps} and {hop}"
            )


class MelSpectrogramPretransform(ShortTimeTransform):
    """Mel magnitudes in decibels or to a power, for pictures and small models. Decoding estimates the phase.

    Decoding solves for non-negative magnitudes (multiplicative updates, Lee and Seung 1999), then runs
    the fast Griffin-Lim algorithm (Perraudin et al. 2013) from a phase drawn with a fixed seed or from
    sinusoids at the peaks: the same latents always give the same audio, but transients are smeared and the
    phase differs from the original.

    1d: (b c n) -> (b c*n_mels n/hop); 2d: (b c n_mels n/hop).

    Args:
        sample_rate: sample rate in Hz.
        frames: frames of the STFT; its fields are keywords as well.
        bands: the mel filters; its fields are keywords as well.
        values: mapping of magnitudes to latents; its fields are keywords as well.
        inversion: estimation of the phase; its fields are keywords as well.
    """

    filters: Tensor

    @takes_keywords
    def __init__(
        self,
        *,
        sample_rate: int,
        frames: Flat[FrameOptions] = FrameOptions(channels=1, n_fft=1024, hop_length=256),  # noqa: B008 (frozen)
        bands: Flat[MelBands] = MelBands(),
        values: Flat[MelValues] = MelValues(),
        inversion: Flat[InversionOptions] = InversionOptions(),
    ) -> None:
        super().__init__(frames)
        inversion.check(frames)
        self.sample_rate, self.values, self.inversion = sample_rate, values, inversion
        top, n_fft = bands.top(sample_rate), frames.n_fft
        self.settings = (
            *(sample_rate, n_fft, bands.n_mels),
            *map(float, (bands.f_min, top, bands.break_hz, *values.settings)),
            frames.layout,
        )
        filters = mel_filters(bands.n_mels, n_fft, sample_rate, bands.f_min, top, bands.break_hz)
        self.register_buffer("filters", filters, persistent=False)
        self.declare(frames.channels, bands.n_mels)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        mels = self.filters.to(audio.dtype) @ self.stft(audio).abs()
        return self.fold(self.values.of(mels))

    def decode(self, latents: Tensor) -> Tensor:
        latents_2d, steps = self.unfold(latents).float(), self.inversion.interpolation
        values = latents_2d * self.values.std + self.values.mean
        if steps > 1:
            size = (values.shape[2], values.shape[3] * steps)
            values = F.interpolate(values, size=size, mode="bilinear", align_corners=False)
        # An untrained network may return any level, and squares of extreme values would overflow.
        mels = self.values.mels(values).clamp(max=LOUDEST)
        magnitude, hop = self._magnitude(mels), self.hop // steps
        audio = self.griffin_lim(
            magnitude,
            self._first_phase(magnitude, hop),
            iterations=self.inversion.iterations,
            momentum=self.inversion.momentum,
            hop=hop,
        )
        return audio.to(latents.dtype)

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
        if self.inversion.initial_phase == "peaks":
            return peak_phases(magnitude, n_fft=self.n_fft, hop=hop)
        generator = torch.Generator().manual_seed(self.inversion.seed)
        return 2 * math.pi * torch.rand(magnitude.shape[1:], generator=generator)
