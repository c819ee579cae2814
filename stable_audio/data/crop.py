"""Crop files at the model's rate, with the same result as converting the whole file and then cutting it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.audio.io import AudioInfo, Sound, open_sound
from stable_audio.audio.padding import PaddingMask
from stable_audio.audio.resample import resample, resampled_length
from stable_audio.audio.transforms import fit_length
from stable_audio.types import Metadata

_MARGIN = 1024
"""Samples read on both sides of a crop that is resampled, at the lower rate; the filter needs them."""


CROP_KEYS = ("timestamps", "seconds_start", "seconds_total", "padding_mask", "sample_rate", "total_samples")
"""The metadata keys of every clip that describe its crop."""


@dataclass(frozen=True)
class Crop:
    """Position of a clip in its file, in samples at the model's rate.

    Attributes:
        offset: first sample of the clip.
        length: samples of the clip, padding included.
        total: samples of the whole file.
    """

    offset: int
    length: int
    total: int
    sample_rate: int

    @property
    def real(self) -> int:
        """Number of samples that are sound, not padding."""
        return min(self.length, self.total - self.offset)

    def metadata(self) -> Metadata:
        """timestamps (start and end as fractions of the file), seconds_start (rounded down), seconds_total
        (of the whole file, rounded up) and padding_mask (a PaddingMask), as stable-audio-tools defines them;
        total_samples of the file, exactly."""
        span = max(self.total, self.length)
        return {
            "timestamps": (self.offset / span, (self.offset + self.length) / span),
            "seconds_start": math.floor(self.offset / self.sample_rate),
            "seconds_total": math.ceil(self.total / self.sample_rate),
            "padding_mask": PaddingMask(self.real, self.length),
            "sample_rate": self.sample_rate,
            "total_samples": self.total,
        }


def choose_crop(
    frames: int,
    source_rate: int,
    *,
    sample_rate: int,
    length: int,
    generator: torch.Generator | None,
) -> Crop:
    """The crop of a file of `frames` samples at `source_rate` Hz: random, or from 0 without a generator.

    Offsets are multiples of the smallest step at which both rates have a sample, which avoids a shift by a
    fraction of a sample.
    """
    total = resampled_length(frames, source_rate, sample_rate)
    step = sample_rate // math.gcd(source_rate, sample_rate)
    choices = max(0, total - length) // step + 1
    number = 0 if generator is None else int(torch.randint(choices, (), generator=generator))
    return Crop(number * step, length, total, sample_rate)


def read_crop(source: AudioInfo | Sound, crop: Crop) -> Tensor:
    """Read only the crop (and what the resampling filter needs around it): (c crop.length) float32.

    Raises:
        AudioError: the file cannot be read.
    """

    if isinstance(source, AudioInfo):
        with open_sound(source.source) as sound:
            return read_crop(sound, crop)
    return resampled_crop(source.read, source.info.frames, source.info.sample_rate, crop)


def resampled_crop(read: Callable[[int, int], Tensor], frames: int, source_rate: int, crop: Crop) -> Tensor:
    """Like `read_crop`, for any source: `read(start, frames)` returns samples at `source_rate`."""
    divisor = math.gcd(source_rate, crop.sample_rate)
    down, up = source_rate // divisor, crop.sample_rate // divisor
    if down == up:
        return fit_length(read(crop.offset, crop.real), crop.length)
    at = crop.offset // up * down
    margin = -(-_MARGIN * max(down, up) // (up * down)) * down
    start = max(0, at - margin)
    stop = min(frames, at + -(-crop.real * down // up) + margin)
    converted = resample(read(start, stop - start), source_rate, crop.sample_rate)
    return fit_length(
        converted[..., : (at - start) // down * up + crop.real], crop.length, offset=(at - start) // down * up
    )
