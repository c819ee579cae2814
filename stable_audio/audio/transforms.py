"""Operations on audio (c n): length, channels, level."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def fit_length(audio: Tensor, length: int, *, offset: int = 0) -> Tensor:
    """Cut `length` samples from `offset`, padded with zeros after the end."""
    part = audio[..., offset : offset + length]
    return F.pad(part, (0, length - part.shape[-1]))


def to_channels(audio: Tensor, channels: int) -> Tensor:
    """Change the number of channels: copy mono to all, average to mono, else keep the first channels.

    Channels are in the order of channel_order, so that stereo from surround is front left and front right.

    Raises:
        ValueError: the audio has more than one channel, but fewer than `channels`.
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
