"""Pictures of sound. matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
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


def save_latents(path: str | os.PathLike[str], clips: Sequence[tuple[str, Tensor]]) -> None:
    """Write a PNG of (title, latents (c n)): the frames in the plane of the first two principal components, a
    colour per clip, and the standard deviation of every channel.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is nothing to draw.
    """
    if not clips:
        raise ValueError("a picture needs at least one clip")
    latents = [x.detach().float().cpu() for _, x in clips]
    points, shares = principal_components(torch.cat(latents, dim=1).T)
    figure = _figure(2, 2)
    plane, bars = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for (title, _), part in zip(clips, points.split([x.shape[1] for x in latents])):
        plane.plot(*part.T.numpy(), ".", markersize=3, alpha=0.6, label=_shorten(title, 24))
    plane.set_title(f"principal components 1 and 2 ({shares[0]:.0%}, {shares[1]:.0%})", fontsize=7)
    plane.legend(fontsize=5)
    spread = torch.cat(latents, dim=1).std(1)
    bars.bar(range(len(spread)), spread.numpy())
    bars.set_title("standard deviation per channel", fontsize=7)
    for axes in (plane, bars):
        axes.tick_params(labelsize=6)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def save_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str,
    up: str,
    legend: str = "",
) -> None:
    """Write a PNG with one line per name, through points (x, y), from blue to orange in their order.

    Args:
        across: label of the horizontal axis.
        up: label of the vertical axis, which is logarithmic where all values are positive.
        legend: title of the legend.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is nothing to draw.
    """
    if not any(curves.values()):
        raise ValueError("a picture needs at least one point")
    figure = _figure(2, 2)
    axes = figure.add_subplot(1, 1, 1)
    for number, (name, points) in enumerate(curves.items()):
        share = number / max(1, len(curves) - 1)
        colour = (0.9 * share, 0.25 + 0.4 * share, 0.8 - 0.6 * share)
        axes.plot(*zip(*points), label=name, linewidth=1.2, color=colour)
    if all(y > 0 for points in curves.values() for _, y in points):
        axes.set_yscale("log")
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.tick_params(labelsize=7, which="both")
    axes.legend(title=legend or None, fontsize=6, title_fontsize=7, ncols=2)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def principal_components(points: Tensor) -> tuple[Tensor, list[float]]:
    """Project points (n d) onto their first two principal components.

    Returns:
        coordinates (n 2) and the share of the variance that each component explains; zeros where the points
        have fewer than two dimensions.
    """
    centred = points - points.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    plane = points.new_zeros(len(points), 2)
    scores = centred @ axes[:2].T
    plane[:, : scores.shape[1]] = scores
    total = float(values.square().sum()) or 1.0
    shares = [float(v) ** 2 / total for v in values[:2]]
    return plane, [*shares, 0.0, 0.0][:2]


def _picture(audio: Tensor, sample_rate: int, n_mels: int) -> Tensor:
    mono = audio.detach().float().cpu().mean(0)
    hop = max(_N_FFT // 4, mono.shape[-1] // 800)
    return decibels(mel_spectrogram(mono, sample_rate, n_fft=_N_FFT, hop_length=hop, n_mels=n_mels))


def _figure(rows: int, columns: int) -> Any:
    """A figure outside pyplot's global list, drawn without a display."""
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
