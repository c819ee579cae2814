"""Strength of the partials of a note over time, and the noise between them."""

from __future__ import annotations

import numpy as np

from stable_audio.data.synthetic.pitched import BELL_PARTIALS, MARIMBA_PARTIALS
from stable_audio.data.synthetic.rendering import TOP_FREQUENCY, VIBRATO_CENTS, VIBRATO_RATE
from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.listening.spectra import decibels, spectrum
from stable_audio.evaluation.pitch import Array

STRUCK = {"bell": BELL_PARTIALS, "marimba": MARIMBA_PARTIALS}
"""Timbres with other partials than harmonics."""

_HIGHEST = 0.43
"""Share of the sample rate below which partials are measured."""

_WIDTH = 2 * VIBRATO_CENTS / 1200 * np.log(2)
"""Share of its frequency by which a partial may swing or be off, to both sides."""

_SIDEBANDS = 3 * VIBRATO_RATE
"""Hz on both sides of a partial that vibrato fills besides."""


def ratios(timbre: str, frequency: float, sample_rate: int) -> Array:
    """Multiples of the fundamental at which a timbre's partials are measured, struck bars' or harmonics."""
    known = STRUCK.get(timbre, tuple(range(1, limits.MOST_PARTIALS + 1)))
    highest = min(_HIGHEST * sample_rate, 0.95 * TOP_FREQUENCY)
    return np.array([r for r in known if r * frequency < highest or r == 1])


def segments(timbre: str, seconds: float) -> list[tuple[float, float]]:
    """Start and end in seconds of the parts in which the partials of a note of this duration are compared."""
    struck = [(0.004, 0.054)] if timbre in STRUCK else []
    if seconds >= 0.6:
        return [*struck, (0.02, 0.14), (0.2, 0.35), (0.4, 0.55)]
    if seconds >= 0.29:
        return [*struck, (0.02, 0.12), (0.15, 0.25)]
    return [(0.01, max(0.03, seconds - 0.04))]


def partial_levels(samples: Array, sample_rate: int, frequency: float, timbre: str, seconds: float) -> Array:
    """Levels (segments, partials) in dB relative to the strongest partial of each segment.

    Args:
        samples: the note from its onset, (n,).
        frequency: its fundamental in Hz.
        timbre: sound whose partials are measured.
        seconds: duration that decides about the segments.
    """
    at = ratios(timbre, frequency, sample_rate) * frequency
    spacing = np.min(np.diff(at, prepend=0.0)) if len(at) > 1 else frequency
    rows = []
    for start, stop in segments(timbre, seconds):
        heard = spectrum(samples, sample_rate, start, stop)
        reach = np.minimum(0.48 * spacing, heard.lobe + _WIDTH * at)
        power = heard.between(at - reach, at + reach)
        rows.append(decibels(power, power.max()))
    return np.array(rows)


def noise_level(
    samples: Array, sample_rate: int, frequency: float, timbre: str, seconds: float, *, vibrato: bool
) -> float:
    """Noise of a note's middle relative to all its power, in dB, from the gaps between the partials.

    The noise below the partials is taken to be as dense as that of the gaps.
    """
    start, stop = (0.12, 0.55) if seconds >= 0.6 else (0.08, max(0.12, min(0.5, seconds - 0.045)))
    heard = spectrum(samples, sample_rate, start, stop)
    harmonics = np.arange(1.0, int(0.5 * sample_rate / frequency) + 1)
    at = (np.array(STRUCK[timbre]) if timbre in STRUCK else harmonics) * frequency
    reach = 1.2 * heard.lobe + (_WIDTH * at + _SIDEBANDS if vibrato else 0.1 * _WIDTH * at)
    edges = np.concatenate([[20.0], at + reach])
    upper = np.concatenate([at - reach, [0.5 * sample_rate]])
    width = float(np.maximum(0.0, upper - edges).sum())
    noise = float(heard.between(edges, upper).sum()) * (0.5 * sample_rate - edges[0]) / max(width, 1.0)
    return float(decibels(noise, max(heard.total, 1e-12)))


def pattern_deviation(heard: Array, lowest: Array, highest: Array) -> float:
    """Greatest distance beyond its tolerance of any level from its rendered range, in dB; 0 if none is."""
    return float(deviations(heard, lowest, highest, limits.PARTIAL_TOLERANCE, limits.ABSENT_BELOW).max())


def deviations(
    heard: Array,
    lowest: Array,
    highest: Array,
    tolerances: tuple[tuple[float, float], ...],
    absent_below: float,
) -> Array:
    """Distance of each level beyond its tolerance from the rendered range, in dB; 0 where it lies within."""
    excess = np.maximum(0.0, heard - np.maximum(highest + tolerances[-1][1], absent_below))
    for least, tolerance in reversed(tolerances):
        outside = np.maximum(lowest - heard, heard - highest) - tolerance
        excess = np.where(highest >= least, np.maximum(0.0, outside), excess)
    return np.asarray(excess)
