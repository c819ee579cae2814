"""Filters of spectral losses: A-weighting and mel bands."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def a_weighting_taps(sample_rate: float, taps: int = 101) -> Tensor:
    """Least-squares FIR (taps,) of the magnitude of the A-weighting curve (IEC 61672) at `sample_rate` Hz.

    The analog curve is warped as by the bilinear transform, then fitted on 512 frequencies.
    """
    from scipy import signal

    frequency = np.arange(512) * sample_rate / 1024
    warped = sample_rate / np.pi * np.tan(np.pi * frequency / sample_rate)
    poles = (20.598997, 107.65265, 737.86223, 12194.217)
    f2 = warped**2
    gain = 10 ** (1.9997 / 20) * poles[3] ** 2 * f2**2
    gain /= (f2 + poles[0] ** 2) * (f2 + poles[3] ** 2)
    gain /= np.sqrt((f2 + poles[1] ** 2) * (f2 + poles[2] ** 2))
    return torch.from_numpy(signal.firls(taps, frequency, gain, fs=sample_rate)).float()


def slaney_mel_filters(n_mels: int, n_fft: int, sample_rate: float) -> Tensor:
    """Triangular filters (n_mels n_fft/2+1) of equal area, linear below 1 kHz and logarithmic above."""
    step = math.log(6.4) / 27

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) / step

    mels = torch.linspace(0, to_mel(sample_rate / 2), n_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp(step * (mels - 15)))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rise = (bins - edges[:-2, None]) / edges.diff()[:-1, None]
    fall = (edges[2:, None] - bins) / edges.diff()[1:, None]
    area = (2 / (edges[2:] - edges[:-2]))[:, None]
    return (torch.minimum(rise, fall).clamp(min=0) * area).float()
