"""The sounds of the synthetic collection: closed-form, band-limited, the same at every sample rate.

Tones are sums of sinusoids below the Nyquist frequency and noises are inverse Fourier transforms of a
spectrum drawn once, so nothing aliases and a clip rendered at two rates is one sound sampled twice.
Every oscillator starts at phase zero.
"""

from __future__ import annotations

import itertools
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


@dataclass(frozen=True)
class Voice:
    """The parameters that vary from clip to clip.

    Attributes:
        frequency: fundamental in Hz; unpitched sounds ignore it.
        duration: seconds from onset to the end of the release.
        loudness: gain in (0, 1].
        brightness: -1 (dark) to 1 (bright).
        damping: -1 (rings long) to 1 (decays fast).
        seed: seed of the noise.
    """

    frequency: float
    duration: float
    loudness: float
    brightness: float
    damping: float
    seed: int


@dataclass(frozen=True)
class Grid:
    """The points at which a sound is sampled: `times` (n,) in seconds at `sample_rate` Hz."""

    times: Array
    sample_rate: int

    @property
    def top(self) -> float:
        """Hz; partials at or above it are omitted."""
        return min(TOP_FREQUENCY, 0.47 * self.sample_rate)


Sound = Callable[[Voice, Grid], Array]
"""Samples of a sound on a grid, before the ramps of the note."""


def render(sound: Sound, voice: Voice, *, sample_rate: int, sample_size: int) -> Array:
    """Samples (sample_size,) of one clip: the sound between its ramps, then exact silence."""
    duration = min(voice.duration, sample_size / sample_rate)
    grid = Grid(np.arange(min(sample_size, int(np.ceil(duration * sample_rate)))) / sample_rate, sample_rate)
    samples = np.zeros(sample_size)
    samples[: len(grid.times)] = voice.loudness * sound(voice, grid) * ramps(grid.times, duration)
    return samples


def ramps(times: Array, duration: float) -> Array:
    """Raised-cosine attack and release around a plateau of one."""
    rise = np.clip(times / ATTACK, 0.0, 1.0)
    fall = np.clip((duration - times) / RELEASE, 0.0, 1.0)
    return 0.25 * (1 - np.cos(np.pi * rise)) * (1 - np.cos(np.pi * fall))


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


def sine(voice: Voice, grid: Grid) -> Array:
    """The fundamental alone."""
    return 0.9 * np.sin(2 * np.pi * voice.frequency * grid.times)


def square(voice: Voice, grid: Grid) -> Array:
    """Odd harmonics, 1/k."""
    k = harmonics_below(grid.top, voice.frequency)
    return _steady(voice, grid, 0.72 * (k % 2) / k)


def sawtooth(voice: Voice, grid: Grid) -> Array:
    """All harmonics, 1/k."""
    return _steady(voice, grid, 0.42 / harmonics_below(grid.top, voice.frequency))


def organ(voice: Voice, grid: Grid) -> Array:
    """Octaves only, as from three drawbars: harmonics 1, 2, 4 and 8 at nearly the same level."""
    k = harmonics_below(grid.top, voice.frequency)
    levels = {1: 0.36, 2: 0.28, 4: 0.2, 8: 0.1}
    return _steady(voice, grid, np.array([levels.get(int(n), 0.0) for n in k]))


def _steady(voice: Voice, grid: Grid, amplitudes: Array) -> Array:
    tilt = np.arange(1, len(amplitudes) + 1) ** (0.25 * voice.brightness - 0.1)
    return harmonic_sum(2 * np.pi * voice.frequency * grid.times, list(amplitudes * tilt))


def plucked_string(voice: Voice, grid: Grid) -> Array:
    """All harmonics of a string plucked at a seventh of its length; high ones die first."""
    k = harmonics_below(grid.top, voice.frequency)
    levels = 1.5 * np.abs(np.sin(np.pi * k / 7.3)) / k ** (1.8 - 0.25 * voice.brightness)
    slowest = 5.0 * 2 ** (0.5 * voice.damping)
    decay, extra = np.exp(-slowest * grid.times), np.exp(-0.35 * slowest * grid.times)
    # exp(-(slowest + extra (k - 1)) t) for harmonic k, by repeated multiplication.
    amplitudes, envelope = [], decay
    for level in levels:
        amplitudes.append(level * envelope)
        envelope = envelope * extra
    return harmonic_sum(2 * np.pi * voice.frequency * grid.times, amplitudes)


def bell(voice: Voice, grid: Grid) -> Array:
    """The inharmonic partials of a struck bar (1, 2.756, 5.404, 8.933); high ones die first."""
    out = np.zeros_like(grid.times)
    for number, ratio in enumerate((1.0, 2.756, 5.404, 8.933)):
        frequency = ratio * voice.frequency
        if frequency < grid.top:
            level = (0.4, 0.28, 0.18, 0.08)[number] * 2 ** (0.4 * number * voice.brightness)
            rate = (1.8 + 1.6 * number) * 2 ** (0.5 * voice.damping)
            out += level * np.exp(-rate * grid.times) * np.sin(2 * np.pi * frequency * grid.times)
    return out


def kick(voice: Voice, grid: Grid) -> Array:
    """A sine that falls from about 190 Hz to 48 Hz within a few tens of milliseconds."""
    drop, rate = 140.0 * 2 ** (0.3 * voice.brightness), 30.0
    cycles = 48.0 * grid.times + drop / rate * (1 - np.exp(-rate * grid.times))
    return 0.95 * np.sin(2 * np.pi * cycles) * np.exp(-9.0 * 2 ** (0.4 * voice.damping) * grid.times)


def snare(voice: Voice, grid: Grid) -> Array:
    """Two short membrane tones under a burst of noise."""
    times, speed = grid.times, 2 ** (0.4 * voice.damping)
    tones = np.sin(2 * np.pi * 185 * times) + 0.6 * np.sin(2 * np.pi * 330 * times)
    burst = noise_band(noise_spectrum(voice.seed), 700.0, TOP_FREQUENCY, grid)
    return 0.3 * tones * np.exp(-22 * speed * times) + 0.2 * burst * np.exp(-13 * speed * times)


def hi_hat(voice: Voice, grid: Grid) -> Array:
    """A very short burst of the noise above 2 kHz."""
    burst = noise_band(noise_spectrum(voice.seed), 2000.0, TOP_FREQUENCY, grid)
    return 0.5 * burst * np.exp(-38 * 2 ** (0.4 * voice.damping) * grid.times)


def noise_sweep(voice: Voice, grid: Grid) -> Array:
    """A band of noise that rises from 120 Hz to 3.4 kHz over the length of the clip."""
    spectrum = noise_spectrum(voice.seed)
    edges = np.geomspace(120.0, 3400.0, 25)
    progress = grid.times / voice.duration
    out = np.zeros_like(progress)
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        weight = np.exp(-0.5 * ((progress - (band + 0.5) / 24) / 0.09) ** 2)
        out += noise_band(spectrum, low, high, grid) * weight / np.sqrt(1 + (high - low) / 50)
    return 0.4 * out


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


PITCHED: dict[str, Sound] = {
    "sine": sine,
    "square": square,
    "sawtooth": sawtooth,
    "organ": organ,
    "plucked string": plucked_string,
    "bell": bell,
}
UNPITCHED: dict[str, Sound] = {"kick": kick, "snare": snare, "hi-hat": hi_hat, "noise sweep": noise_sweep}
SOUNDS: dict[str, Sound] = {**PITCHED, **UNPITCHED}
