"""A picture of one sound: its waveform above its mel spectrogram, over the same time."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stable_audio.audio.contact_sheet.thumbnails import levels
from stable_audio.audio.png import heat_palette, png_bytes

WIDTH, WAVE_HEIGHT = 320, 41
"""Columns of the picture, and rows of the waveform; the row in their middle is 0."""

_HEATS = 252
_WAVE, _CLIPPED, _BACK, _ZERO = range(_HEATS, 256)
_COLOURS = {_WAVE: (126, 178, 255), _CLIPPED: (255, 82, 96), _BACK: (12, 12, 18), _ZERO: (60, 60, 72)}


def sound_picture(audio: Tensor, sample_rate: int) -> bytes:
    """A PNG of audio (c n): all channels in one waveform, true to level, red where a sample exceeds 1.

    The spectrogram is relative to its own loudest place and 80 dB deep.
    """
    heat = (levels(audio, sample_rate, width=WIDTH).astype(np.uint16) * (_HEATS - 1) // 255).astype(np.uint8)
    return png_bytes(np.concatenate([waveform(audio), heat]), _palette())


def waveform(audio: Tensor) -> np.ndarray:
    """The waveform as (WAVE_HEIGHT WIDTH) uint8 places in the palette of `sound_picture`."""
    low, high = _extremes(audio.detach().float().cpu().numpy())
    middle = WAVE_HEIGHT // 2
    rows = np.arange(WAVE_HEIGHT)[:, None]
    top, bottom = (np.rint(middle * (1 - np.clip(edge, -1, 1))) for edge in (high, low))
    picture = np.full((WAVE_HEIGHT, WIDTH), _BACK, dtype=np.uint8)
    picture[middle] = _ZERO
    clipped = np.maximum(high, -low) > 1
    return np.where((rows >= top) & (rows <= bottom), np.where(clipped, _CLIPPED, _WAVE), picture).astype(
        np.uint8
    )


def _extremes(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest sample of audio (c n) in each of WIDTH equal parts of the time."""
    length = audio.shape[-1]
    if length == 0:
        return np.zeros(WIDTH), np.zeros(WIDTH)
    begins = np.arange(WIDTH) * length // WIDTH  # reduceat takes the sample itself where a part is empty
    low, high = audio.min(0), audio.max(0)
    return np.minimum.reduceat(low, begins), np.maximum.reduceat(high, begins)


def _palette() -> bytes:
    heats = np.frombuffer(heat_palette(), np.uint8).reshape(256, 3)
    places = np.linspace(0, 255, _HEATS).round().astype(int)
    special = [_COLOURS[place] for place in range(_HEATS, 256)]
    return heats[places].tobytes() + bytes(value for colour in special for value in colour)
