"""The swing of a note's pitch."""

from __future__ import annotations

import numpy as np

from stable_audio.data.synthetic.rendering import VIBRATO_RATE
from stable_audio.evaluation.listening import limits
from stable_audio.evaluation.pitch import Array

_FROM, _BEFORE_END = 0.15, 0.06
"""Seconds after the onset and before the end between which the pitch is followed."""


def vibrato_cents(samples: Array, sample_rate: int, frequency: float, seconds: float) -> float:
    """Greatest amplitude in cents of a sine between 4 and 7.5 Hz in the pitch of a note, by least squares.

    Args:
        samples: the note from its onset, (n,).
        frequency: its mean fundamental in Hz.
        seconds: its duration.
    """
    cents, _, times = _track(samples, sample_rate, frequency, seconds)
    if len(cents) < 60:
        return 0.0
    return max(_amplitude(cents, times, hertz) for hertz in np.arange(*limits.VIBRATO_RATES, 0.5))


def mean_cents(samples: Array, sample_rate: int, frequency: float, seconds: float) -> float:
    """Mean pitch in cents above `frequency` over whole periods of vibrato, by power; 0 if too short."""
    periods = int((seconds - _FROM - _BEFORE_END) * VIBRATO_RATE)
    if periods < 1:
        return 0.0
    end = _FROM + periods / VIBRATO_RATE + _BEFORE_END
    cents, power, _ = _track(samples, sample_rate, frequency, end)
    return float(np.average(cents, weights=power)) if power.sum() > 0 else 0.0


def _track(samples: Array, sample_rate: int, frequency: float, seconds: float) -> tuple[Array, Array, Array]:
    """Pitch in cents above `frequency`, at most 100, power, and seconds, every 2 ms.

    The fundamental is shifted to zero and low-passed by a Hann window of three periods, at least 20 ms,
    which has its zeros near the other partials; the pitch is the rate of its phase.
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
    rate = np.angle(turns[1:] * np.conj(turns[:-1])) / (2 * np.pi) * sample_rate / step
    cents = np.clip(1200 * np.log2(np.maximum(1 + rate / frequency, 0.5)), -100, 100)
    return cents, np.abs(turns[1:] * turns[:-1]), np.arange(len(cents)) * step / sample_rate


def _amplitude(cents: Array, times: Array, hertz: float) -> float:
    angle = 2 * np.pi * hertz * times
    basis = np.stack([np.sin(angle), np.cos(angle), np.ones_like(angle), times - times.mean()], axis=-1)
    solution = np.linalg.lstsq(basis, cents, rcond=None)[0]
    return float(np.hypot(solution[0], solution[1]))
