"""Waveforms and spectrograms of sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stable_audio.audio.contact_sheet.thumbnails import levels
from stable_audio.audio.io import read_audio
from stable_audio.audio.png import heat_palette, png_bytes
from stable_audio.interface.service.views import Peaks


def peaks_of(path: Path, parts: int) -> Peaks:
    """The waveform of a sound in at most so many parts."""
    audio, sample_rate = read_audio(path)
    samples = audio.numpy()
    edges = np.linspace(0, samples.shape[1], min(parts, samples.shape[1]) + 1).astype(int)[:-1]
    low, high = (
        f.reduceat(g(samples, axis=0), edges) for f, g in ((np.minimum, np.min), (np.maximum, np.max))
    )
    return Peaks(
        seconds=samples.shape[1] / sample_rate,
        minimum=[round(float(value), 4) for value in low],
        maximum=[round(float(value), 4) for value in high],
    )


def spectrogram_of(path: Path, width: int, height: int) -> bytes:
    """A mel spectrogram of a sound as a PNG."""
    audio, sample_rate = read_audio(path)
    return png_bytes(levels(audio, sample_rate, width=width, height=height), heat_palette())
