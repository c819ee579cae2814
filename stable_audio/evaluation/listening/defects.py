"""Defects of a waveform: clicks, clipping, noise after the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.pitch import Array

_ORDER = 32
"""Coefficients of the linear prediction."""


def click_factor(samples: Array, sample_rate: int) -> float:
    """How far the sharpest surprise stands out of the 60 ms around it, as a factor.

    A surprise is what linear prediction leaves: next to nothing of partials, the whole of a click.
    """
    peak = float(np.abs(samples).max(initial=0.0))
    length = max(2, round(0.004 * sample_rate))
    frames = len(samples) // length
    if peak == 0 or frames < 2:
        return 0.0
    surprises = np.abs(_unpredicted(samples))[: frames * length].reshape(frames, length).max(axis=1)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(surprises, 7, mode="edge"), 15)
    floor = limits.CLICK_FLOOR * peak
    return float((surprises / np.maximum(np.median(near, axis=-1), floor)).max())


def has_clicks(samples: Array, originals: Sequence[Array], sample_rate: int) -> bool:
    """Whether a click is heard that none of the originals has."""
    allowed = limits.CLICK_ABOVE_RENDERED * max(click_factor(o, sample_rate) for o in originals)
    return click_factor(samples, sample_rate) > max(allowed, limits.CLICK_LEAST)


def _unpredicted(samples: Array) -> Array:
    """Error of the best prediction of each sample from those before it (autocorrelation method), (n,)."""
    padded = 1 << int(np.ceil(np.log2(2 * len(samples))))
    correlation = np.fft.irfft(np.abs(np.fft.rfft(samples, padded)) ** 2, padded)[: _ORDER + 1]
    lags = np.abs(np.subtract.outer(np.arange(_ORDER), np.arange(_ORDER)))
    # A trace of white noise keeps the equations of pure tones solvable.
    matrix = correlation[lags] + 1e-7 * correlation[0] * np.eye(_ORDER)
    coefficients = np.linalg.solve(matrix, correlation[1:])
    return np.convolve(samples, np.concatenate([[1.0], -coefficients]))[: len(samples)]


def flat_top_share(samples: Array, sample_rate: int) -> float:
    """Share of the samples of the 50 ms around the peak that lie within 2% of it."""
    level = np.abs(samples)
    peak = int(level.argmax())
    reach = round(0.025 * sample_rate)
    part = level[max(0, peak - reach) : peak + reach]
    return float((part >= 0.98 * level[peak]).mean()) if level[peak] > 0 else 0.0


def has_quiet_tail(samples: Array, sample_rate: int, seconds: float) -> bool:
    """Whether nothing is heard after `seconds`."""
    tail = samples[round((seconds + limits.TAIL_MARGIN) * sample_rate) :]
    if len(tail) == 0:
        return True
    level = np.sqrt(np.square(tail).mean()) / max(np.abs(samples).max(), 1e-9)
    return bool(level < 10 ** (limits.TAIL_DB / 20))
