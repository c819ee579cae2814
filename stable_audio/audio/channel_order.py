"""Order of surround channels.

This package uses one order everywhere: front left, front right, centre, low frequencies, back or side left,
right, ... as in wav and FLAC (RFC 9639, section 9.1.3). Vorbis and Opus files have another order (Vorbis I
specification, section 4.3.9; RFC 7845, section 5.1.1.2).
"""

from __future__ import annotations

_VORBIS = {  # channels -> position of each channel of the standard order
    3: [0, 2, 1],
    5: [0, 2, 1, 3, 4],
    6: [0, 2, 1, 5, 3, 4],
    7: [0, 2, 1, 6, 5, 3, 4],
    8: [0, 2, 1, 7, 5, 6, 3, 4],
}
_CODECS = ("VORBIS", "OPUS")


def to_standard(codec: str, channels: int) -> list[int] | None:
    """Index in a `codec` file of each channel of the standard order; None if both orders are the same."""
    return _VORBIS.get(channels) if codec in _CODECS else None


def from_standard(codec: str, channels: int) -> list[int] | None:
    """Index in the standard order of each channel of a `codec` file; None if both orders are the same."""
    order = to_standard(codec, channels)
    return None if order is None else sorted(range(channels), key=order.__getitem__)
