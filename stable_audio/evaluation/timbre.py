"""Classify clips as sounds of the synthetic collection: spectral features, nearest class mean.

The class means come from freshly rendered clips, so the classifier depends on the renderer and on no model.
Features are levels in dB with a floor, so that components far below the sound have no influence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from stable_audio.evaluation.pitch import Array, detect_pitch, magnitude_spectrum, sounding_part

PARTIALS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 2.756, 5.404)
"""Multiples of the fundamental whose levels are measured; the last two belong to struck bars."""

FLOOR_DB = -30.0
"""Levels below this, relative to the whole clip, count as absent."""

CALIBRATION_NOISE_DB = (-120.0, -30.0, -20.0)
"""Noise under the calibration clips, relative to their RMS."""

LEAST_SPREAD = 3.0
"""Lower limit of the within-class deviation, in feature units; rendered clips give nearly zero."""


def timbre_features(audio: ArrayLike, sample_rate: int) -> Array:
    """Mono audio (n,) -> features (15,): partial levels, noisiness, decay, brightness early and late."""
    samples = sounding_part(np.asarray(audio, dtype=np.float64))
    if len(samples) < 64:
        return np.full(len(PARTIALS) + 5, FLOOR_DB)
    spectrum, step = magnitude_spectrum(samples, sample_rate)
    power = spectrum**2
    fundamental = detect_pitch(samples, sample_rate) or 100.0
    levels = [_level(power, step, ratio * fundamental) for ratio in PARTIALS]
    thirds = np.array_split(samples, 3)
    decay = _decibels(np.square(thirds[2]).mean() / np.square(thirds[0]).mean())
    length = 10 * np.log2(len(samples) / sample_rate)
    early, late = (_brightness(part, sample_rate) for part in (thirds[0], thirds[2]))
    return np.array([*levels, _flatness(power, step), decay, length, early, late])


def _decibels(ratio: float) -> float:
    return float(max(FLOOR_DB, 10 * np.log10(ratio + 1e-12)))


def _level(power: Array, step: float, frequency: float) -> float:
    """Share of the power within 4% around `frequency` (at least 6 Hz), in dB."""
    reach = max(0.04 * frequency, 6.0)
    first, last = (round((frequency + sign * reach) / step) for sign in (-1, 1))
    return _decibels(power[max(0, first) : last + 1].sum() / power.sum())


def _flatness(power: Array, step: float) -> float:
    """Geometric over arithmetic mean of the power between 100 Hz and 3 kHz, in dB: 0 for noise."""
    band = power[round(100 / step) : round(3000 / step)]
    return _decibels(np.exp(np.log(band + 1e-3 * power.max()).mean()) / band.mean())


def _brightness(samples: Array, sample_rate: int) -> float:
    """Power centroid on a logarithmic axis: 10 per octave above 100 Hz."""
    spectrum, step = magnitude_spectrum(samples, sample_rate)
    power, frequencies = spectrum**2, np.arange(len(spectrum)) * step
    audible = frequencies > 30
    weights = power[audible] / (power[audible].sum() + 1e-12)
    return float(10 * (weights * np.log2(frequencies[audible] / 100)).sum())


@dataclass(frozen=True)
class TimbreClassifier:
    """Nearest mean in features divided by their within-class deviation."""

    names: tuple[str, ...]
    means: Array
    spread: Array

    @classmethod
    def calibrate(cls, clips: Iterable[tuple[ArrayLike, str]], sample_rate: int) -> TimbreClassifier:
        """Calibrate on (mono audio, timbre) pairs: several clips of every timbre.

        Each clip is measured clean and under faint white noise, so that the noise floor of generated
        clips does not change their class.
        """
        rng = np.random.default_rng(0)
        groups: dict[str, list[Array]] = {}
        for audio, timbre in clips:
            samples = np.asarray(audio, dtype=np.float64)
            hiss = samples.std() * rng.standard_normal(samples.shape)
            noisy = (samples + hiss * 10 ** (level / 20) for level in CALIBRATION_NOISE_DB)
            groups.setdefault(timbre, []).extend(timbre_features(n, sample_rate) for n in noisy)
        means = {timbre: np.mean(rows, axis=0) for timbre, rows in groups.items()}
        deviations = [np.asarray(rows) - means[timbre] for timbre, rows in groups.items()]
        within = np.sqrt(np.mean(np.concatenate(deviations) ** 2, axis=0))
        return cls(tuple(means), np.array(list(means.values())), np.maximum(within, LEAST_SPREAD))

    def classify(self, audio: ArrayLike, sample_rate: int) -> str:
        """The timbre whose mean is nearest to mono audio (n,)."""
        distances = ((timbre_features(audio, sample_rate) - self.means) / self.spread) ** 2
        return self.names[int(distances.sum(axis=1).argmin())]
