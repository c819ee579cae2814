"""Level in bands over time: how drums and noises are compared, and any sound with any other."""

from __future__ import annotations

import numpy as np

from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.listening.partials import deviations
from stable_audio.evaluation.listening.spectra import decibels, spectrum
from stable_audio.evaluation.pitch import Array

_LOWEST, _BANDS_PER_OCTAVE = 40.0, 1.5
_FRAME, _HOP = 0.04, 0.02
_FLOOR = -35.0


def band_edges(sample_rate: int, per_octave: float) -> Array:
    """Hz, from 40 Hz to near half the sample rate."""
    octaves = np.log2(min(0.45 * sample_rate, 11_000.0) / _LOWEST)
    return np.asarray(_LOWEST * 2 ** np.linspace(0, octaves, round(octaves * per_octave) + 1))


def band_levels(samples: Array, sample_rate: int, seconds: float) -> Array:
    """(frames, bands) in dB relative to the strongest; 40 ms frames every 20 ms, the first around zero."""
    edges = band_edges(sample_rate, _BANDS_PER_OCTAVE)
    padded = np.concatenate([np.zeros(round(_FRAME / 2 * sample_rate)), samples])
    starts = np.arange(0.0, max(_HOP, seconds), _HOP)
    rows = [_powers(padded, sample_rate, start, start + _FRAME, edges) for start in starts]
    power = np.array(rows)
    return decibels(power, power.max())


def share_outside(heard: Array, lowest: Array, highest: Array) -> float:
    """Share of the audible bands and frames that lie beyond their tolerance from the rendered range."""
    frames = min(len(heard), len(lowest))
    heard, lowest, highest = heard[:frames], lowest[:frames], highest[:frames]
    excess = deviations(heard, lowest, highest, limits.BAND_TOLERANCE, limits.BAND_TOLERANCE[-1][0])
    audible = (highest > limits.BAND_TOLERANCE[-1][0]) | (excess > 0)
    return float((excess > 0).sum() / max(1, audible.sum()))


def with_slack(levels: Array) -> tuple[Array, Array]:
    """Least and greatest level of each band in the frame itself and its neighbours."""
    padded = np.pad(levels, ((1, 1), (0, 0)), mode="edge")
    near = np.stack([padded[:-2], padded[1:-1], padded[2:]])
    return near.min(axis=0), near.max(axis=0)


def fingerprint(samples: Array, sample_rate: int) -> Array:
    """Levels in third octaves of three parts of a sound, in dB relative to the strongest, at least -35."""
    edges = band_edges(sample_rate, 3.0)
    parts = [
        _powers(samples, sample_rate, start, stop, edges)
        for start, stop in ((0, 0.1), (0.1, 0.25), (0.25, 0.5))
    ]
    power = np.array(parts)
    return np.maximum(_FLOOR, decibels(power, max(float(power.max()), 1e-12))).ravel()


def _powers(samples: Array, sample_rate: int, start: float, stop: float, edges: Array) -> Array:
    return spectrum(samples, sample_rate, start, stop).between(edges[:-1], edges[1:]) + 1e-12
