"""Rendering of the synthetic collection: closed-form, the same sound at every sample rate.

Tones are sums of sinusoids below the Nyquist frequency and noises are inverse Fourier transforms of a
spectrum drawn once, so nothing aliases and a clip rendered at two rates is one sound sampled twice.
Every oscillator starts at phase zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOP_FREQUENCY = 12_000.0
"""Hz; no partial lies above it, whatever the sample rate allows."""

NOISE_PERIOD = 2
"""Seconds after which rendered noise repeats."""

ATTACK = 0.008
RELEASE = 0.04
"""Seconds of the raised-cosine ramps at both ends of a note; crisp, but without clicks."""

VIBRATO_CENTS, VIBRATO_RATE, VIBRATO_START = 30.0, 5.5, 0.15
"""Greatest deviation; rate in Hz; seconds after the onset at which it begins."""

_INAUDIBLE = 3e-4
"""Partials at most this strong (-70 dB) are not computed."""


@dataclass(frozen=True)
class Voice:
    """The parameters of one note.

    Attributes:
        frequency: fundamental in Hz; unpitched sounds ignore it.
        duration: seconds from onset to the end of the release.
        loudness: gain in (0, 1].
        brightness: -1 (dark) to 1 (bright).
        damping: -1 (rings long) to 1 (decays fast).
        seed: seed of the noise.
        vibrato: whether the pitch swings by VIBRATO_CENTS.
        onset: seconds from the beginning of the clip to the note.
    """

    frequency: float
    duration: float
    loudness: float
    brightness: float
    damping: float
    seed: int
    vibrato: bool = False
    onset: float = 0.0

    @property
    def decay_speed(self) -> float:
        """Factor of the rates of decay, at most 9% either way."""
        return float(2 ** (0.12 * self.damping))


@dataclass(frozen=True)
class Grid:
    """The points at which a sound is sampled: `times` (n,) in seconds at `sample_rate` Hz."""

    times: Array
    sample_rate: int

    @property
    def top(self) -> float:
        """Hz; partials at or above it are omitted."""
        return min(TOP_FREQUENCY, 0.47 * self.sample_rate)


SoundFormula = Callable[[Voice, Grid], Array]
"""Samples of a sound on a grid, before the ramps of the note."""


def render(sound: SoundFormula, *voices: Voice, sample_rate: int, sample_size: int) -> Array:
    """Samples (sample_size,) of one clip: every note between its ramps, exact silence elsewhere."""
    samples = np.zeros(sample_size)
    for voice in voices:
        first = int(np.ceil(voice.onset * sample_rate - 1e-6))
        duration = min(voice.duration, sample_size / sample_rate - voice.onset)
        last = min(sample_size, int(np.ceil((voice.onset + duration) * sample_rate)))
        if last > first:
            grid = Grid(np.arange(first, last) / sample_rate - voice.onset, sample_rate)
            samples[first:last] += voice.loudness * sound(voice, grid) * ramps(grid.times, duration)
    return samples


def ramps(times: Array, duration: float) -> Array:
    """Raised-cosine attack and release around a plateau of one."""
    rise = np.clip(times / ATTACK, 0.0, 1.0)
    fall = np.clip((duration - times) / RELEASE, 0.0, 1.0)
    return 0.25 * (1 - np.cos(np.pi * rise)) * (1 - np.cos(np.pi * fall))


def swell(times: Array, seconds: float) -> Array:
    """A raised-cosine rise from 0 to 1 over `seconds`, slower than the attack of every note."""
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(times / seconds, 0.0, 1.0))


def phase(voice: Voice, times: Array) -> Array:
    """Angle of the fundamental in radians, the integral of its frequency, from zero at the onset.

    Vibrato modulates the frequency by a sine, so that it begins without a step.
    """
    if not voice.vibrato:
        return 2 * np.pi * voice.frequency * times
    depth, rate = 2 ** (VIBRATO_CENTS / 1200) - 1, 2 * np.pi * VIBRATO_RATE
    swing = depth * (1 - np.cos(rate * np.maximum(0.0, times - VIBRATO_START))) / rate
    return 2 * np.pi * voice.frequency * (times + swing)


def harmonic_sum(angle: Array, amplitudes: Sequence[float | Array]) -> Array:
    """sum_k amplitudes[k-1] sin(k angle) by Clenshaw's recurrence: one cosine instead of one per partial."""
    twice_cos = 2 * np.cos(angle)
    ahead, further = np.zeros_like(angle), np.zeros_like(angle)
    for amplitude in reversed(amplitudes):
        ahead, further = amplitude + twice_cos * ahead - further, ahead
    return ahead * np.sin(angle)


def harmonics_below(top: float, frequency: float) -> Array:
    """The harmonic numbers 1, 2, ... that lie below `top` Hz."""
    return np.arange(1.0, max(1, int(top / frequency)) + 1)


def audible(amplitudes: Array) -> list[float]:
    """`amplitudes` without the inaudible ones at the end; at least one."""
    indices = np.flatnonzero(amplitudes > _INAUDIBLE)
    return [float(a) for a in amplitudes[: indices[-1] + 1 if indices.size else 1]]


def noise_spectrum(seed: int) -> NDArray[np.complex128]:
    """One complex Gaussian per bin of 1 / NOISE_PERIOD Hz, falling by 6 dB per octave above 2 kHz."""
    real, imaginary = np.random.default_rng(seed).standard_normal((2, int(TOP_FREQUENCY * NOISE_PERIOD)))
    frequencies = np.arange(len(real)) / NOISE_PERIOD
    return (real + 1j * imaginary) / np.sqrt(1 + (frequencies / 2000) ** 2)


def noise_band(spectrum: NDArray[np.complex128], low: float, high: float, grid: Grid) -> Array:
    """The part of a noise between `low` and `high` Hz, with the density that gives 1 kHz unit power."""
    length = grid.sample_rate * NOISE_PERIOD
    first, last = (round(min(f, grid.top) * NOISE_PERIOD) for f in (low, high))
    half = np.zeros(length // 2 + 1, complex)
    half[first:last] = spectrum[first:last]
    samples = np.fft.irfft(half, length) * (length / (2 * np.sqrt(1000 * NOISE_PERIOD)))
    return np.resize(samples, len(grid.times))
