"""Loops: sounds whose end goes on into their beginning."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio.audio.seams import SEAM_SECONDS, crossfaded, fade_length
from stable_audio.inference.generation.coding import decode_each
from stable_audio.model import DiffusionModel

CONTEXT_FRAMES = 16
"""Latent frames from beyond either end of a loop that its decoder sees."""


def decoded_loop(model: DiffusionModel, latents: Tensor, samples: int, *, chunked: bool) -> Tensor:
    """Decode latents (b c n) that go on into themselves into a loop (b c samples).

    The frames before the beginning are decoded with it, and what they sound like is cross-faded into the end:
    so the last sample is followed by the first as if there were no end, although the length need not be a
    whole number of frames, and although decoders may give a repeated frame another phase. The beginning stays
    as it is, with its onset.
    """
    ratio = model.downsampling_ratio
    seam = min(round(SEAM_SECONDS * model.sample_rate), samples)
    before = max(CONTEXT_FRAMES, -(-seam // ratio))
    behind = CONTEXT_FRAMES + max(0, -(-samples // ratio) - latents.shape[-1])
    places = torch.arange(-before, latents.shape[-1] + behind) % latents.shape[-1]
    audio = decode_each(model, latents.index_select(-1, places), chunked)
    start = before * ratio
    loop = audio[..., start : start + samples].clone()
    for clip, lead in zip(loop, audio[..., start - seam : start]):
        fade = fade_length(clip[..., -seam:], lead)
        clip[..., -fade:] = crossfaded(clip[..., -fade:], lead[..., -fade:])
    return loop


def seconds_of_bars(bars: float, *, bpm: float, beats: float = 4) -> float:
    """The length of `bars` bars of `beats` beats, at `bpm` beats a minute.

    Raises:
        ValueError: a number that is not above 0.
    """
    for name, value in {"bars": bars, "bpm": bpm, "beats": beats}.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0, found {value}")
    return bars * beats * 60 / bpm
