"""The swing of a note's pitch."""

from __future__ import annotations

import numpy as np

from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.pitch import Array

_FROM, _BEFORE_END = 0.15, 0.06
"""Seconds after the onset and before the end between which the pitch is followed."""


def vibrato_cents(samples: Array, sample_rate: int, frequency: float, seconds: float) -> float:
    """Greatest amplitude in cents of a sine between 4 and 7.5 Hz in the pitch of a note, by least squares.

    The fundamental is shifted to zero and low-passed by a Hann window of three periods, at least 20 ms,
    which has its zeros near the other partials; the pitch is the rate of its phase.

    Args:
        samples: the note from its onset, (n,).
        frequency: its mean fundamental in Hz.
        seconds: its duration.
    """
    length = round(max(3 / frequency, 0.02) * sample_rate)
    times = np.arange(len(samples)) / sample_rate
    window = np.hanning(length + 2)[1:-1]
    padded = 1 << int(np.ceil(np.log2(len(samples) + length)))
    shifted = np.fft.fft(samples * np.exp(-2j * np.pi * frequency * times), padded)
    smooth = np.fft.ifft(shifted * np.fft.fft(window / window.sum(), padded))[length // 2 :]
    step = max(1, round(0.002 * sample_rate))
    first, last = (round(t * sample_rate) for t in (_FROM, seconds - _BEFORE_END))
    turns = smooth[first:last:step]
    if len(turns) < 60:
        return 0.0
    rate = np.angle(turns[1:] * np.conj(turns[:-1])) / (2 * np.pi) * sample_rate / step
    cents = 1200 * np.log2(np.maximum(1 + rate / frequency, 0.5))
    cents = np.clip(cents - np.median(cents), -100, 100)
    at = np.arange(len(cents)) * step / sample_rate
    return max(_amplitude(cents, at, hertz) for hertz in np.arange(*limits.VIBRATO_RATES, 0.5))


def _amplitude(cents: Array, times: Array, hertz: float) -> float:
    angle = 2 * np.pi * hertz * times
    basis = np.stack([np.sin(angle), np.cos(angle), np.ones_like(angle), times - times.mean()], axis=-1)
    solution = np.linalg.lstsq(basis, cents, rcond=None)[0]
    return float(np.hypot(solution[0], solution[1]))
