"""Pitch of a single note, from its spectrum: no model, no training."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LOWEST, HIGHEST = 60.0, 1700.0
"""Hz; the range in which fundamentals are searched."""

PEAK_RANGE_DB = 12.0
"""The fundamental is the lowest peak at most this far below the strongest one."""

SILENCE = 1e-3
"""A clip whose peak lies below this (-60 dB) has no pitch."""


def detect_pitch(audio: ArrayLike, sample_rate: int) -> float | None:
    """Fundamental frequency in Hz of mono audio (n,); None for silence or without a clear peak.

    The sounding part is weighted with a Hann window and zero-padded to at least four times its length;
    the lowest strong peak is refined by the parabola through three log magnitudes.
    """
    samples = sounding_part(np.asarray(audio, dtype=np.float64))
    if len(samples) < 64:
        return None
    spectrum, step = magnitude_spectrum(samples, sample_rate)
    first, last = int(LOWEST / step), min(int(HIGHEST / step), len(spectrum) - 2)
    centre = spectrum[first : last + 1]
    is_peak = (centre > spectrum[first - 1 : last]) & (centre >= spectrum[first + 1 : last + 2])
    strong = is_peak & (centre > spectrum.max() * 10 ** (-PEAK_RANGE_DB / 20))
    if not strong.any():
        return None
    peak = first + int(np.argmax(strong))
    return (peak + _parabola_offset(np.log(spectrum[peak - 1 : peak + 2] + 1e-12))) * step


def semitones_between(frequency: float, reference: float) -> float:
    """Signed interval from `reference` to `frequency` in semitones."""
    return 12 * float(np.log2(frequency / reference))


def sounding_part(samples: Array, range_db: float = 30.0) -> Array:
    """The samples from the first to the last one within `range_db` of the peak; empty for silence."""
    level = np.abs(samples)
    if level.size == 0 or level.max() < SILENCE:
        return samples[:0]
    loud = np.flatnonzero(level > level.max() * 10 ** (-range_db / 20))
    return samples[loud[0] : loud[-1] + 1]


def magnitude_spectrum(samples: Array, sample_rate: int) -> tuple[Array, float]:
    """Hann-windowed, zero-padded magnitudes and the distance of two bins in Hz."""
    length = 1 << int(np.ceil(np.log2(4 * len(samples))))
    length = max(length, 1 << int(np.ceil(np.log2(2 * sample_rate))))
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), length))
    return spectrum, sample_rate / length


def _parabola_offset(three: Array) -> float:
    below, centre, above = three
    curvature = below - 2 * centre + above
    return 0.0 if curvature >= 0 else float(np.clip(0.5 * (below - above) / curvature, -0.5, 0.5))
