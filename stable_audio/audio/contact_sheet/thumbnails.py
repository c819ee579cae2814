"""Small mel spectrograms of the clips of a contact sheet, one file each, drawn once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.io import read_audio
from stable_audio.audio.png import heat_palette, png_bytes
from stable_audio.audio.spectrogram import decibels, mel_spectrogram

FOLDER = "thumbnails"
"""Folder of the pictures, within that of the clips."""

_WIDTH, _HEIGHT, _RANGE_DB, _N_FFT = 192, 64, 80.0, 1024


def thumbnail_of(sound: Path) -> str:
    """The picture of a sound, relative to the sound's folder; drawn unless it is there already.

    Raises:
        AudioError: the sound cannot be read.
    """
    picture = sound.parent / FOLDER / f"{sound.name}.png"
    if not picture.is_file() or picture.stat().st_mtime_ns < sound.stat().st_mtime_ns:
        audio, sample_rate = read_audio(sound)
        with atomic_write(picture) as temporary:
            temporary.write_bytes(png_bytes(levels(audio, sample_rate), heat_palette()))
    return f"{FOLDER}/{picture.name}"


def levels(audio: Tensor, sample_rate: int, *, width: int = _WIDTH, height: int = _HEIGHT) -> np.ndarray:
    """Audio (c n) as (height width) uint8: mel bands from high to low, 255 the loudest, 0 80 dB below."""
    mono = audio.mean(0)
    if not bool(mono.any()):
        return np.zeros((height, width), dtype=np.uint8)
    hop = max(1, mono.shape[-1] // width)
    n_fft = _N_FFT * max(1, height // _HEIGHT)  # narrow bands need lines of their own
    bands = decibels(mel_spectrogram(mono, sample_rate, n_fft=n_fft, hop_length=hop, n_mels=height))
    picture = F.interpolate(bands[None], width, mode="linear")[0]
    relative = (picture - picture.max()) / _RANGE_DB + 1
    return (relative.clamp(0, 1) * 255).round().to(torch.uint8).flip(0).numpy()
