"""The pitched sounds of the synthetic collection."""

from __future__ import annotations

import numpy as np

from stable_audio.data.synthetic.rendering import (
    Array,
    Grid,
    SoundFormula,
    Voice,
    audible,
    harmonic_sum,
    harmonics_below,
    noise_band,
    noise_spectrum,
    phase,
    swell,
)


def sine(voice: Voice, grid: Grid) -> Array:
    """The fundamental alone."""
    return 0.9 * np.sin(phase(voice, grid.times))


def square(voice: Voice, grid: Grid) -> Array:
    """Odd harmonics, 1/k."""
    k = harmonics_below(grid.top, voice.frequency)
    return steady(voice, grid, 0.72 * (k % 2) / k)


def sawtooth(voice: Voice, grid: Grid) -> Array:
    """All harmonics, 1/k."""
    return steady(voice, grid, 0.42 / harmonics_below(grid.top, voice.frequency))


def organ(voice: Voice, grid: Grid) -> Array:
    """Octaves only, as from four drawbars: harmonics 1, 2, 4 and 8 at nearly the same level."""
    k = harmonics_below(grid.top, voice.frequency)
    levels = {1: 0.5, 2: 0.39, 4: 0.28, 8: 0.14}
    return steady(voice, grid, np.array([levels.get(int(n), 0.0) for n in k]))


def flute(voice: Voice, grid: Grid) -> Array:
    """Few harmonics that begin softly, under a little breath between 1 and 4 kHz."""
    levels = np.array([0.72, 0.24, 0.1, 0.03])[: len(harmonics_below(grid.top, voice.frequency))]
    breath = noise_band(noise_spectrum(voice.seed), 1000.0, 4000.0, grid)
    return swell(grid.times, 0.06) * (steady(voice, grid, levels) + 0.012 * breath)


def brass(voice: Voice, grid: Grid) -> Array:
    """Strong harmonics whose upper ones follow the envelope: brighter as it swells, duller as it settles."""
    k = harmonics_below(grid.top, voice.frequency)
    levels = audible(0.3 * _tilt(voice, k) * np.array([1.0, 0.95, 0.8])[np.minimum(k, 3).astype(int) - 1]
                     * 10 ** (-3.0 / 20 * np.maximum(0.0, k - 3)))  # fmt: skip
    envelope = swell(grid.times, 0.08) * (0.8 + 0.2 * np.exp(-grid.times / 0.12))
    # envelope^(1 + 0.3 (k - 1)) for harmonic k, by repeated multiplication.
    amplitudes, power, step = [], envelope, envelope**0.3
    for level in levels:
        amplitudes.append(level * power)
        power = power * step
    return harmonic_sum(phase(voice, grid.times), amplitudes)


def plucked_string(voice: Voice, grid: Grid) -> Array:
    """All harmonics of a string plucked at a seventh of its length; high ones decay first."""
    k = harmonics_below(grid.top, voice.frequency)
    levels = audible(1.5 * np.abs(np.sin(np.pi * k / 7.3)) / k**1.8 * _tilt(voice, k))
    slowest = 2.4 * voice.decay_speed
    decay, extra = np.exp(-slowest * grid.times), np.exp(-0.5 * slowest * grid.times)
    # exp(-slowest (1 + (k - 1) / 2) t) for harmonic k, by repeated multiplication.
    amplitudes, envelope = [], decay
    for level in levels:
        amplitudes.append(level * envelope)
        envelope = envelope * extra
    return harmonic_sum(phase(voice, grid.times), amplitudes)


def bell(voice: Voice, grid: Grid) -> Array:
    """The inharmonic partials of a struck bar (1, 2.756, 5.404, 8.933); high ones decay first."""
    rates = tuple(1.8 + 1.6 * number for number in range(4))
    return _struck(voice, grid, BELL_PARTIALS, (0.4, 0.28, 0.18, 0.08), rates)


def marimba(voice: Voice, grid: Grid) -> Array:
    """A tuned wooden bar: the partials at 3.9 and 9.2 are gone after a tenth of a second."""
    return _struck(voice, grid, MARIMBA_PARTIALS, (0.62, 0.25, 0.1), (3.2, 16.0, 34.0))


BELL_PARTIALS = (1.0, 2.756, 5.404, 8.933)
MARIMBA_PARTIALS = (1.0, 3.9, 9.2)
"""Multiples of the fundamental."""


def _struck(
    voice: Voice, grid: Grid, partials: tuple[float, ...], levels: tuple[float, ...], rates: tuple[float, ...]
) -> Array:
    out, angle = np.zeros_like(grid.times), phase(voice, grid.times)
    for partial, level, rate in zip(partials, levels, rates):
        if partial * voice.frequency < grid.top:
            gain = level * float(_tilt(voice, np.array(partial)))
            out += gain * np.exp(-rate * voice.decay_speed * grid.times) * np.sin(partial * angle)
    return out


def steady(voice: Voice, grid: Grid, amplitudes: Array) -> Array:
    """Harmonics of constant amplitude, with the brightness of the voice."""
    k = np.arange(1.0, len(amplitudes) + 1)
    return harmonic_sum(phase(voice, grid.times), audible(amplitudes * k**-0.1 * _tilt(voice, k)))


def _tilt(voice: Voice, k: Array) -> Array:
    """At most 1.2 dB up or down at the tenth partial: clips vary, but too little for a caption to mention."""
    return np.asarray(k ** (0.06 * voice.brightness))


STEADY: dict[str, SoundFormula] = {
    "sine": sine,
    "square": square,
    "sawtooth": sawtooth,
    "organ": organ,
    "flute": flute,
    "brass": brass,
}
"""Sounds that last as long as the note is held; only they can have vibrato."""

DECAYING: dict[str, SoundFormula] = {"plucked string": plucked_string, "bell": bell, "marimba": marimba}

PITCHED: dict[str, SoundFormula] = {**STEADY, **DECAYING}
