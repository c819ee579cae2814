"""Limits of the length of sounds in a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LengthLimits:
    """Limits of the length of a sound; None: no limit.

    Attributes:
        min_length_sec: leave out sounds shorter than this many seconds.
        max_length_sec: leave out sounds longer than this many seconds.
    """

    min_length_sec: float | None = None
    max_length_sec: float | None = None

    def __bool__(self) -> bool:
        return self != LengthLimits()

    @property
    def bounds(self) -> tuple[float, float]:
        """The shortest and the longest length in seconds."""
        high = math.inf if self.max_length_sec is None else self.max_length_sec
        return self.min_length_sec or 0.0, high

    def check(self, seconds: float) -> None:
        """Raise ValueError if `seconds` lie outside the limits."""
        if self.min_length_sec is not None and seconds < self.min_length_sec:
            raise ValueError(f"lasts {seconds:.2f} s, shorter than min_length_sec {self.min_length_sec:g}")
        if self.max_length_sec is not None and seconds > self.max_length_sec:
            raise ValueError(f"lasts {seconds:.2f} s, longer than max_length_sec {self.max_length_sec:g}")
