"""An initial estimate of the phase of a magnitude spectrogram: each peak is a continuing sinusoid.

Single-pass spectrogram inversion (Beauregard, Harish and Wyse 2015). For steady tones it is so
close that a few Griffin-Lim iterations suffice; for noise it is as good as a random phase.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def peak_phases(magnitude: Tensor, *, n_fft: int, hop: int) -> Tensor:
    """Magnitudes (... bins frames) of a symmetric window -> phases of the same shape, in radians.

    Every bin follows its nearest peak: at the centre of the window all bins of one peak have one phase,
    which advances from frame to frame by the peak's frequency. Oscillators start as sines at the start of the
    first frame's hop.
    """
    bins = torch.arange(magnitude.shape[-2], device=magnitude.device)
    owners, frequencies = _nearest_peak(magnitude.mT), _peak_frequencies(magnitude.mT, n_fft)
    phases, centre = [], None
    for owner, frequency in zip(owners.unbind(-2), frequencies.unbind(-2)):
        peak_frequency = frequency.gather(-1, owner)
        if centre is None:
            centre = peak_frequency * (hop / 2) - math.pi / 2
        else:
            centre = centre.gather(-1, owner) + peak_frequency * hop
        phases.append(centre - math.pi * bins)
    return torch.stack(phases, dim=-1)


def _nearest_peak(frames: Tensor) -> Tensor:
    """Index (... frames bins) of the local maximum that is nearest to each bin."""
    padded = torch.nn.functional.pad(frames, (1, 1), value=-1.0)
    is_peak = (frames > padded[..., :-2]) & (frames >= padded[..., 2:])
    count = frames.shape[-1]
    index = torch.arange(count, device=frames.device).expand_as(frames)
    below = torch.where(is_peak, index, -count).cummax(dim=-1).values
    above = torch.where(is_peak, index, 2 * count).flip(-1).cummin(dim=-1).values.flip(-1)
    nearest = torch.where(index - below <= above - index, below, above)
    return nearest.clamp(0, count - 1)


def _peak_frequencies(frames: Tensor, n_fft: int) -> Tensor:
    """Radians per sample (... frames bins) of the peak of the parabola through three log magnitudes."""
    logs = torch.nn.functional.pad(frames.clamp(min=1e-9).log(), (1, 1), value=-30.0)
    lower, centre, upper = logs[..., :-2], logs[..., 1:-1], logs[..., 2:]
    curvature = (lower - 2 * centre + upper).clamp(max=-1e-6)
    offset = (0.5 * (lower - upper) / curvature).clamp(-0.5, 0.5)
    index = torch.arange(frames.shape[-1], device=frames.device)
    return 2 * math.pi * (index + offset) / n_fft
