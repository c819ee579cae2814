"""Power spectra of parts of a sound, by a window whose side lobes lie 92 dB down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stable_audio.evaluation.pitch import Array

MAIN_LOBE = 4.0
"""Half width of the window's main lobe, in bins of the unpadded transform."""


@dataclass(frozen=True)
class Spectrum:
    """Power of a part of a sound.

    Attributes:
        summed: power below each bin, (bins + 1,).
        step: Hz between bins.
        lobe: half width of the main lobe in Hz.
    """

    summed: Array
    step: float
    lobe: float

    @property
    def total(self) -> float:
        return float(self.summed[-1])

    def between(self, low: Array, high: Array) -> Array:
        """Power between frequencies in Hz."""
        last = len(self.summed) - 1
        first, end = (np.clip(np.round(f / self.step), 0, last).astype(int) for f in (low, high))
        return np.asarray(self.summed[np.maximum(first, end)] - self.summed[first])


def spectrum(samples: Array, sample_rate: int, start: float, stop: float) -> Spectrum:
    """Of the part between two times in seconds; silence is taken to follow the samples."""
    length = max(16, round((stop - start) * sample_rate))
    part = np.zeros(length)
    taken = samples[max(0, round(start * sample_rate)) :][:length]
    part[: len(taken)] = taken
    window = blackman_harris(length)
    padded = 1 << int(np.ceil(np.log2(4 * length)))
    power = np.abs(np.fft.rfft(part * window, padded)) ** 2 * (2 / (padded * np.square(window).sum()))
    return Spectrum(
        np.concatenate([[0.0], np.cumsum(power)]), sample_rate / padded, MAIN_LOBE * sample_rate / length
    )


@lru_cache(maxsize=16)
def blackman_harris(length: int) -> Array:
    """The four-term window of Harris (1978), side lobes at -92 dB."""
    angle = 2 * np.pi * np.arange(length) / length
    terms = (0.35875, -0.48829, 0.14128, -0.01168)
    return np.asarray(sum(a * np.cos(n * angle) for n, a in enumerate(terms)))


def decibels(power: Array | float, reference: Array | float = 1.0) -> Array:
    """Ratio of powers in dB, at least -120."""
    return np.asarray(10 * np.log10(np.maximum(np.asarray(power) / np.maximum(reference, 1e-20), 1e-12)))
