"""Sample-rate conversion: soxr for files, a Kaiser-windowed sinc in torch for the graph."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resampled_length(length: int, source_rate: int, target_rate: int) -> int:
    """Number of samples after conversion, rounded up."""
    return -(-length * target_rate // source_rate)


def resample(audio: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Convert audio (c n) on the CPU with soxr, quality HQ, to exactly `resampled_length` samples."""
    if source_rate == target_rate:
        return audio
    import soxr

    converted = torch.from_numpy(soxr.resample(audio.numpy().T, source_rate, target_rate, quality="HQ").T)
    length = resampled_length(audio.shape[-1], source_rate, target_rate)
    return F.pad(converted, (0, length - converted.shape[-1]))[..., :length].contiguous()


def resample_sinc(
    audio: Tensor,
    source_rate: int,
    target_rate: int,
    *,
    zeros: int = 64,
    rolloff: float = 0.9475937167399596,
    beta: float = 14.769656459379492,
) -> Tensor:
    """Convert audio (... n) with a polyphase Kaiser-windowed sinc: any device, differentiable.

    Args:
        zeros: zero crossings of the sinc on each side; more is sharper and slower.
        rolloff: cut-off as a fraction of the lower Nyquist frequency.
        beta: shape parameter of the Kaiser window.

    Returns:
        (... resampled_length): the first output sample lies on the first input sample.
    """
    if source_rate == target_rate:
        return audio
    divisor = math.gcd(source_rate, target_rate)
    down, up = source_rate // divisor, target_rate // divisor
    kernel, width = _kernel(down, up, zeros, rolloff, beta)
    length = resampled_length(audio.shape[-1], source_rate, target_rate)
    x = F.pad(audio.reshape(-1, 1, audio.shape[-1]), (width, width + down))
    y = F.conv1d(x, kernel.to(x), stride=down)
    y = y.transpose(1, 2).reshape(*audio.shape[:-1], -1)
    return y[..., :length]


def _kernel(down: int, up: int, zeros: int, rolloff: float, beta: float) -> tuple[Tensor, int]:
    """Filters (up, 1, taps), one per output phase, and the number of samples they reach to the left."""
    cutoff = rolloff * min(1.0, up / down)
    width = math.ceil(zeros / cutoff)
    taps = torch.arange(-width, width + down, dtype=torch.float64)
    phases = torch.arange(up, dtype=torch.float64) * down / up
    distance = (taps[None] - phases[:, None]) * cutoff
    inside = distance.abs() <= zeros
    shape = torch.sqrt((1 - (distance / zeros) ** 2).clamp(min=0)) * beta
    window = torch.special.i0(shape) / torch.special.i0(torch.tensor(beta, dtype=torch.float64))
    filters = torch.where(inside, torch.sinc(distance) * window * cutoff, torch.zeros(()).double())
    return filters.unsqueeze(1).float(), width
