"""Mel spectrograms in torch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

MelScale = Literal["htk", "slaney"]

_SLANEY_BREAK_HZ = 1000.0
_SLANEY_HZ_PER_MEL = 200.0 / 3
_SLANEY_LOG_STEP = math.log(6.4) / 27


def hz_to_mel(hz: Tensor, scale: MelScale = "htk") -> Tensor:
    """htk: 2595 log10(1 + f / 700); slaney: linear below 1 kHz, logarithmic above."""
    if scale == "htk":
        return 2595.0 * torch.log10(1.0 + hz / 700.0)
    linear = hz / _SLANEY_HZ_PER_MEL
    above = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL + torch.log(hz.clamp(min=1e-9) / _SLANEY_BREAK_HZ) / (
        _SLANEY_LOG_STEP
    )
    return torch.where(hz < _SLANEY_BREAK_HZ, linear, above)


def mel_to_hz(mel: Tensor, scale: MelScale = "htk") -> Tensor:
    """The inverse of hz_to_mel."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    first = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    above = _SLANEY_BREAK_HZ * torch.exp(_SLANEY_LOG_STEP * (mel - first))
    return torch.where(mel < first, mel * _SLANEY_HZ_PER_MEL, above)


def mel_filterbank(
    n_mels: int,
    n_fft: int,
    sample_rate: int,
    *,
    f_min: float = 0.0,
    f_max: float | None = None,
    scale: MelScale = "htk",
    area_norm: bool = False,
) -> Tensor:
    """Triangular filters (n_mels, n_fft // 2 + 1), equally spaced on the mel scale.

    Args:
        area_norm: give each filter the area 1 Hz (Slaney) instead of the peak 1.
    """
    f_max = sample_rate / 2 if f_max is None else f_max
    ends = hz_to_mel(torch.tensor([f_min, f_max], dtype=torch.float64), scale)
    points = mel_to_hz(torch.linspace(float(ends[0]), float(ends[1]), n_mels + 2, dtype=torch.float64), scale)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    width = points[1:] - points[:-1]
    rising = (bins[None] - points[:-2, None]) / width[:-1, None]
    falling = (points[2:, None] - bins[None]) / width[1:, None]
    filters = torch.minimum(rising, falling).clamp(min=0)
    if area_norm:
        filters = filters * (2.0 / (points[2:] - points[:-2]))[:, None]
    return filters.float()


def mel_spectrogram(
    audio: Tensor,
    sample_rate: int,
    *,
    n_fft: int = 2048,
    hop_length: int = 512,
    n_mels: int = 128,
    power: float = 2.0,
    f_min: float = 0.0,
    f_max: float | None = None,
    scale: MelScale = "htk",
    area_norm: bool = False,
) -> Tensor:
    """audio (... n) -> (... n_mels frames), frames = 1 + n // hop_length; Hann window, centred, zero-padded.

    Args:
        power: 1 for magnitudes, 2 for power.
    """
    flat = audio.reshape(-1, audio.shape[-1])
    window = torch.hann_window(n_fft, device=audio.device, dtype=audio.dtype)
    spectrum = torch.stft(
        flat, n_fft, hop_length, window=window, center=True, pad_mode="constant", return_complex=True
    )
    filters = mel_filterbank(
        n_mels, n_fft, sample_rate, f_min=f_min, f_max=f_max, scale=scale, area_norm=area_norm
    )
    mel = filters.to(audio) @ spectrum.abs() ** power
    return mel.reshape(*audio.shape[:-1], n_mels, -1)


def decibels(power: Tensor, *, range_db: float = 80.0) -> Tensor:
    """10 log10, limited to `range_db` below the maximum; digital silence gives -range_db throughout."""
    top = power.max()
    if not bool(top > 0):
        return torch.full_like(power, -range_db)
    return (10 * torch.log10(power.clamp(min=1e-20))).clamp(min=float(10 * torch.log10(top)) - range_db)
