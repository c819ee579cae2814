"""Sample rates that formats of sound files can have."""

from __future__ import annotations

RATES: dict[str, tuple[int, ...]] = {
    "opus": (8000, 12000, 16000, 24000, 48000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
"""Suffix -> its rates in Hz (RFC 7845; MPEG-1 and -2, layer 3, and MPEG-2.5); other formats have any."""


def rate_in(suffix: str, sample_rate: int) -> int:
    """The rate at which sound of `sample_rate` is written: its own, the next higher one, or the highest."""
    rates = RATES.get(suffix, (sample_rate,))
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])
