"""Sounds for the tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def chirp(seconds: float = 1.0, sample_rate: int = 44100, channels: int = 2) -> Tensor:
    """A slow sweep that looks different everywhere: (channels n), peak 0.5."""
    t = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    sweeps = [
        0.5 * torch.sin(2 * math.pi * (200 * (k + 1) * t + 1500 / seconds * t**2)) for k in range(channels)
    ]
    return torch.stack(sweeps).float()


def sine(frequency: float, seconds: float, sample_rate: int, channels: int = 1) -> Tensor:
    """A sine at full scale (channels n)."""
    t = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return torch.sin(2 * math.pi * frequency * t).float().expand(channels, -1)
