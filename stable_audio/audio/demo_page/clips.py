"""Write one sound of a page of demos: the file, its picture, and what the page tells of it."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.demo_page import DemoClip
from stable_audio.audio.io import save_audio
from stable_audio.audio.loudness import integrated_loudness
from stable_audio.audio.sound_picture import sound_picture


def save_clip(path: Path, audio: Tensor, sample_rate: int, *, row: str, column: str) -> DemoClip:
    """Write audio (c n) to `path`, clipped at full scale, and its picture beside it.

    Raises:
        AudioError: the sound cannot be written.
    """
    saved = save_audio(path, audio, sample_rate)
    picture = path.with_name(f"{path.stem}.png")
    with atomic_write(picture) as temporary:
        temporary.write_bytes(sound_picture(audio, sample_rate))
    loudness = integrated_loudness(audio.detach().cpu().clamp(-1, 1), sample_rate)
    return DemoClip(
        file=path.name,
        row=row,
        column=column,
        peak=round(saved.peak, 4),
        clipped=saved.clipped,
        loudness=round(loudness, 2) if math.isfinite(loudness) else None,
        seconds=round(audio.shape[-1] / sample_rate, 3),
        picture=picture.name,
    )
