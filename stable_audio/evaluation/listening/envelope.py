"""The level of a sound over time: attack, decay, end, and loudness."""

from __future__ import annotations

import numpy as np

from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.listening.spectra import decibels
from stable_audio.evaluation.pitch import Array

HOP = 0.01
WINDOW = 0.03
"""Seconds; longer than three periods of the lowest note."""

LOUDNESS_SECONDS = 0.25
"""The level of a sound is that of its first quarter of a second."""


def envelope(samples: Array, sample_rate: int) -> Array:
    """Level in dB in Hann-weighted frames, the first centred on the first sample, (n,)."""
    hop, length = HOP * sample_rate, round(WINDOW * sample_rate)
    window = np.hanning(length + 2)[1:-1]
    power = np.convolve(np.square(samples), window / window.sum(), mode="full")
    frames = np.round(np.arange(int(len(samples) / hop)) * hop).astype(int) + length // 2
    return decibels(power[np.minimum(frames, len(power) - 1)])


def level(samples: Array, sample_rate: int) -> float:
    """Mean power of the beginning in dB."""
    return float(decibels(np.square(samples[: round(LOUDNESS_SECONDS * sample_rate)]).mean()))


def envelope_fits(heard: Array, rendered: Array) -> bool:
    """Whether one envelope follows another, apart from a constant, as `limits` says."""
    count = min(len(heard), len(rendered))
    heard, rendered = heard[:count], rendered[:count] - rendered[:count].max()
    loud = rendered > -12.0
    heard = heard - (heard[loud] - rendered[loud]).mean()
    lowest, highest = _slack(rendered)
    tolerance = limits.ENVELOPE_TOLERANCE
    above = heard > np.maximum(highest, limits.ENVELOPE_RANGE) + tolerance
    below = (heard < lowest - tolerance) & (lowest > limits.ENVELOPE_RANGE)
    return int((above | below).sum()) <= limits.ENVELOPE_FRAMES_OUTSIDE


def _slack(rendered: Array) -> tuple[Array, Array]:
    """Least and greatest level of the frames that are near in time."""
    reach = round(limits.ENVELOPE_SLACK / HOP)
    padded = np.pad(rendered, reach, mode="edge")
    near = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    return near.min(axis=-1), near.max(axis=-1)


def end_fits(heard: Array, rendered: Array) -> bool:
    """Whether a sound ends when the rendered one does; both are envelopes of the whole clip."""
    end = _end(heard, limits.END_LEVEL)
    earliest = _end(rendered, limits.END_LEVEL + limits.END_MARGIN) - limits.END_SLACK
    latest = _end(rendered, limits.END_LEVEL - limits.END_MARGIN) + limits.END_SLACK
    return bool(earliest <= end <= latest)


def _end(levels: Array, below_peak: float) -> float:
    loud = np.flatnonzero(levels > levels.max() + below_peak)
    return float(HOP * loud[-1])
