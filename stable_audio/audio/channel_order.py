"""Order of surround channels.

Everywhere in this program: front left, front right, centre, low frequencies, back or side left, right, ... as
in wav and FLAC (RFC 9639, section 9.1.3). Vorbis and Opus files have another order (Vorbis I specification,
section 4.3.9; RFC 7845, section 5.1.1.2).
"""

from __future__ import annotations

_VORBIS = {  # channels -> where each channel of the standard order lies
    3: [0, 2, 1],
    5: [0, 2, 1, 3, 4],
    6: [0, 2, 1, 5, 3, 4],
    7: [0, 2, 1, 6, 5, 3, 4],
    8: [0, 2, 1, 7, 5, 6, 3, 4],
}
_CODECS = ("VORBIS", "OPUS")


def to_standard(codec: str, channels: int) -> list[int] | None:
    """For each channel of the standard order, its place in a file of `codec`; None: the order is the same."""
    return _VORBIS.get(channels) if codec in _CODECS else None


def from_standard(codec: str, channels: int) -> list[int] | None:
    """For each channel of a file of `codec`, its place in the standard order; None: the order is the same."""
    order = to_standard(codec, channels)
    return None if order is None else sorted(range(channels), key=order.__getitem__)
