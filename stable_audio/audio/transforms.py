"""Operations on audio (c n): length, channels, level."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def fit_length(audio: Tensor, length: int, *, offset: int = 0) -> Tensor:
    """`length` samples from `offset`; zeros after the end."""
    part = audio[..., offset : offset + length]
    return F.pad(part, (0, length - part.shape[-1]))


def to_channels(audio: Tensor, channels: int) -> Tensor:
    """Mono is copied; to mono is the mean; of more channels the first ones are kept.

    Channels are in the order of channel_order, so that stereo from surround is front left and front right.

    Raises:
        ValueError: more than one channel, and fewer than asked.
    """
    count = audio.shape[-2]
    if count == channels:
        return audio
    if channels == 1:
        return audio.mean(dim=-2, keepdim=True)
    if count == 1:
        return audio.expand(*audio.shape[:-2], channels, audio.shape[-1]).contiguous()
    if count > channels:
        return audio[..., :channels, :].contiguous()
    raise ValueError(f"has {count} channels, the model needs {channels}")


def peak_db(audio: Tensor) -> float:
    """Largest |sample| in dB relative to full scale; -inf for digital silence."""
    peak = float(audio.abs().max()) if audio.numel() else 0.0
    return 20 * math.log10(peak) if peak > 0 else -math.inf
