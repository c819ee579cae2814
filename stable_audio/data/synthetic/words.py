"""The words of captions that have an audible meaning, and the narrow ranges that they denote.

The ranges of different words lie clearly apart, so that a model's adherence can be measured.
"""

from __future__ import annotations

from typing import Literal

Loudness = Literal["quiet", "medium", "loud"]
Length = Literal["short", "medium", "long"]

LOUDNESS_DB: dict[Loudness, float] = {"quiet": -18.0, "medium": -11.0, "loud": -4.0}
"""Middle of each range, in dB relative to the sound at a gain of one."""

LOUDNESS_REACH = 0.75
"""dB by which a clip may lie above or below the middle."""

LENGTH_SHARES: dict[Length, tuple[float, float]] = {
    "short": (0.0, 0.12),
    "medium": (0.42, 0.54),
    "long": (0.88, 1.0),
}
"""Ranges as fractions of the span from the shortest to the longest sound."""

LOUDNESS_WORDS: dict[Loudness, tuple[str, ...]] = {
    "quiet": ("quiet", "soft"),
    "medium": ("",),
    "loud": ("loud",),
}
LENGTH_WORDS: dict[Length, tuple[str, ...]] = {"short": ("short",), "medium": ("",), "long": ("long",)}
"""Medium values have no word."""

VIBRATO = "with vibrato"


def gain(loudness_db: float) -> float:
    """dB -> factor."""
    return float(10 ** (loudness_db / 20))


def length_range(length: Length, seconds: tuple[float, float]) -> tuple[float, float]:
    """Shortest and longest duration that a word denotes, for sounds between `seconds`."""
    low, high = LENGTH_SHARES[length]
    span = seconds[1] - seconds[0]
    return seconds[0] + low * span, seconds[0] + high * span
