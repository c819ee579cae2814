"""Measure silence and peaks of files block by block."""

from __future__ import annotations

import math

from torch import Tensor

from stable_audio.audio.io import AudioInfo, Sound, open_sound
from stable_audio.audio.transforms import peak_db

_BLOCK_SECONDS = 30
_MARGIN_SECONDS = 0.005


def sound_end(
    source: AudioInfo | Sound, *, threshold_db: float = -60.0, shortest_seconds: float = 0.1
) -> int:
    """Number of samples up to the last one above `threshold_db`; all of them if the silence is short.

    Reads backwards in blocks of a second. For a file that is silent throughout, it is the full length.

    Args:
        threshold_db: level in dB relative to full scale.
        shortest_seconds: silence shorter than this counts as sound.

    Raises:
        AudioError: the file cannot be read.
    """
    if isinstance(source, AudioInfo):
        with open_sound(source.source) as sound:
            return sound_end(sound, threshold_db=threshold_db, shortest_seconds=shortest_seconds)
    info, threshold = source.info, 10 ** (threshold_db / 20)
    stop = info.frames
    while stop > 0:
        start = max(0, stop - info.sample_rate)
        audio = source.read(start, stop - start)
        loud = (audio.abs().amax(0) > threshold).nonzero()
        if loud.numel():
            end = start + int(loud[-1]) + 1
            return end if info.frames - end >= shortest_seconds * info.sample_rate else info.frames
        stop = start
    return info.frames


def sound_span(audio: Tensor, sample_rate: int, *, threshold_db: float = -60.0) -> tuple[int, int]:
    """(first sample, end) of what lies above `threshold_db` in audio (c n), and 5 ms around it.

    For a clip that is silent throughout, both are 0.
    """
    loud = (audio.abs().amax(0) > 10 ** (threshold_db / 20)).nonzero()
    if not loud.numel():
        return 0, 0
    margin = round(_MARGIN_SECONDS * sample_rate)
    return max(0, int(loud[0]) - margin), min(audio.shape[-1], int(loud[-1]) + 1 + margin)


def file_peak_db(source: AudioInfo | Sound) -> float:
    """Peak of the file in dB; decodes the whole file.

    Raises:
        AudioError: some part of the file cannot be read.
    """
    if isinstance(source, AudioInfo):
        with open_sound(source.source) as sound:
            return file_peak_db(sound)
    block = _BLOCK_SECONDS * source.info.sample_rate
    starts = range(0, source.info.frames, block)
    return max((peak_db(source.read(start, block)) for start in starts), default=-math.inf)
