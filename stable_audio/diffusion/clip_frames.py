"""How many latent frames of a clip are sound, by its seconds or its mask, as Stable Audio 3 counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SECONDS = "seconds_total"
"""The key of the metadata with the length of a clip."""

HEADROOM_SECONDS = 5.0
"""Silence behind a clip that generation computes with it."""


@dataclass(frozen=True)
class FrameRate:
    """Seconds to latent frames.

    Attributes:
        sample_rate: of the audio, in Hz.
        ratio: audio samples per latent frame.
    """

    sample_rate: int
    ratio: int

    def of_seconds(self, seconds: float) -> int:
        """Frames that a clip of `seconds` takes, the last of which it may fill in part."""
        return -(-int(seconds * self.sample_rate) // self.ratio)

    def within(self, seconds: float) -> int:
        """Whole frames within `seconds`."""
        return int(seconds * self.sample_rate / self.ratio)

    def of_clips(self, metadata: Sequence[Mapping[str, Any]]) -> list[int] | None:
        """Frames of each clip by its `seconds_total`; None if one of them lacks it."""
        if any(item.get(SECONDS) is None for item in metadata):
            return None
        return [self.of_seconds(seconds_of(item)) for item in metadata]

    def extended(self, frames: int, unit: float, scale_seconds: float, most: int) -> int:
        """`frames`, and random silence behind them.

        Args:
            unit: a draw from an exponential distribution of mean 1.
            scale_seconds: mean of the silence.
            most: the frames that there are.
        """
        return min(most, frames + math.floor(unit * scale_seconds * self.sample_rate / self.ratio))


def resized(frames: int, source: int, target: int) -> int:
    """How many of `target` frames are sound if the first `frames` of `source` points are, also in part."""
    return min(target, -(-frames * target // source))


def frame_rows(lengths: Sequence[int], frames: int) -> Tensor:
    """(b frames) bool on the CPU, True for the first lengths[i] frames of item i."""
    return torch.arange(frames) < torch.tensor(list(lengths))[:, None]


def seconds_of(item: Mapping[str, Any]) -> float:
    """The length of a clip, which loaders may wrap in a list of one."""
    value = item[SECONDS]
    return float(value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value)
