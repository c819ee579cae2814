"""Pictures of sound. matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.spectrogram import decibels, mel_spectrogram

_TALL_INCHES, _WIDE_INCHES = 2.0, 3.2
_N_FFT = 1024


def save_mel_grid(
    path: str | os.PathLike[str],
    clips: Sequence[tuple[str, Tensor]],
    sample_rate: int,
    *,
    columns: int = 4,
    n_mels: int = 96,
) -> None:
    """Write a PNG with one mel spectrogram per (title, audio (c n)); all share one level scale.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is nothing to draw.
    """
    if not clips:
        raise ValueError("a picture needs at least one clip")
    figure = _figure(math.ceil(len(clips) / columns), min(columns, len(clips)))
    pictures = [_picture(audio, sample_rate, n_mels) for _, audio in clips]
    top = max(float(p.max()) for p in pictures)
    for number, ((title, audio), picture) in enumerate(zip(clips, pictures)):
        axes = figure.add_subplot(math.ceil(len(clips) / columns), min(columns, len(clips)), number + 1)
        seconds = audio.shape[-1] / sample_rate
        axes.imshow(
            picture.numpy(),
            origin="lower",
            aspect="auto",
            extent=(0.0, seconds, 0.0, float(n_mels)),
            vmin=top - 80.0,
            vmax=top,
            cmap="magma",
        )
        axes.set_title(_shorten(title), fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _picture(audio: Tensor, sample_rate: int, n_mels: int) -> Tensor:
    mono = audio.detach().float().cpu().mean(0)
    hop = max(_N_FFT // 4, mono.shape[-1] // 800)
    return decibels(mel_spectrogram(mono, sample_rate, n_fft=_N_FFT, hop_length=hop, n_mels=n_mels))


def _figure(rows: int, columns: int) -> Any:
    """A figure of its own, outside pyplot's global list, drawn without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "stable-audio[train]"') from error
    figure = Figure(figsize=(_WIDE_INCHES * columns, _TALL_INCHES * rows))
    FigureCanvasAgg(figure)
    return figure


def _shorten(title: str, length: int = 44) -> str:
    # "$" would start a formula
    text = " ".join(title.split()).replace("$", r"\$")
    return text if len(text) <= length else text[: length - 1] + "…"
