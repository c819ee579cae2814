"""Metadata values that are sounds -> tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.audio.io import read_audio
from stable_audio.audio.resample import resample
from stable_audio.audio.transforms import to_channels


class SoundReader:
    """What conditioners that read sounds have in common.

    Attributes:
        sample_rate: sample rate in Hz of sounds that come without one.
    """

    sample_rate: int

    def sound(self, value: Any) -> Tensor:
        """One value -> (c n) float32 on the CPU, as the conditioner needs it."""
        raise NotImplementedError

    def fitted(self, value: Any, samples: int) -> Any:
        """The value with its sounds read, for a clip of `samples` at `sample_rate`."""
        raise NotImplementedError


def read_sound(value: Any, *, default_rate: int, rate: int, channels: int) -> Tensor:
    """A file, audio (c n) or (n,), or (rate, audio) -> (channels n) float32 at `rate` on the CPU.

    Args:
        default_rate: sample rate in Hz of audio that comes without one.
        rate: sample rate of the result.

    Raises:
        ValueError: the value is none of them.
    """
    found = default_rate
    if isinstance(value, (str, os.PathLike)):
        value, found = read_audio(Path(value))
    elif isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], int):
        found, value = value
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise ValueError(f"a sound is a tensor (c n), (rate, tensor) or the path of a file; found {kind}")
    audio = value.detach().float().cpu()
    audio = audio[0] if audio.ndim == 3 and len(audio) == 1 else audio
    audio = audio[None] if audio.ndim == 1 else audio
    if audio.ndim != 2 or not audio.shape[-1]:
        raise ValueError(f"a sound has the shape (channels, samples), found {tuple(value.shape)}")
    return to_channels(resample(audio, found, rate), channels)
