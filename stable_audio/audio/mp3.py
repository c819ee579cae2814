"""Whether seeking in an mp3 file is exact: a look at its first frame, and at the others if need be."""

from __future__ import annotations

from enum import Enum
from typing import BinaryIO, NamedTuple

PREROLL = 16 * 1152
"""Samples to decode before the wanted ones: frames borrow bits from up to some ten predecessors."""

_BIT_RATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = (44100, 48000, 32000)
_HALVINGS = {3: 1, 2: 2, 0: 4}  # MPEG 1, 2, 2.5
_TAGS = (b"Xing", b"Info")
_SEARCHED_BYTES = 4096
_TAG_SLACK = 0.01


class Seeking(Enum):
    """EXACT: any position can be sought. SEQUENTIAL: only reading from the start is exact, because the
    header's table is for a file of another size. UNKNOWN_LENGTH: frames of varying size and no header, so
    that even the length is a guess."""

    EXACT = "exact"
    SEQUENTIAL = "sequential"
    UNKNOWN_LENGTH = "unknown length"


class _Frame(NamedTuple):
    size: int
    bit_rate: int


def seeking(file: BinaryIO) -> Seeking:
    """Classify an mp3 file that is open at its beginning. Raises OSError when it cannot be read."""
    start = _id3_size(file.read(10))
    file.seek(start)
    beginning = file.read(_SEARCHED_BYTES)
    size = file.seek(0, 2)
    tag = next((beginning.find(t) for t in _TAGS if t in beginning[:256]), -1)
    if tag >= 0:
        return _by_tag(beginning[tag:], size - start)
    if b"VBRI" in beginning[:256]:
        return Seeking.SEQUENTIAL
    file.seek(start)
    return Seeking.EXACT if _constant_bit_rate(file.read()) else Seeking.UNKNOWN_LENGTH


def _by_tag(tag: bytes, size: int) -> Seeking:
    flags = int.from_bytes(tag[4:8], "big")
    if not flags & 1:
        return Seeking.UNKNOWN_LENGTH
    if not flags & 2:
        return Seeking.SEQUENTIAL
    promised = int.from_bytes(tag[12:16], "big")
    return Seeking.EXACT if abs(promised - size) <= _TAG_SLACK * size else Seeking.SEQUENTIAL


def _id3_size(head: bytes) -> int:
    """Bytes of an ID3v2 tag: 4 x 7 bits, and the header."""
    if head[:3] != b"ID3":
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))


def _constant_bit_rate(data: bytes) -> bool:
    """Hop from frame to frame; True when all have one bit rate."""
    position = 0
    rates: set[int] = set()
    while position + 4 <= len(data) and len(rates) < 2:
        frame = _frame(data[position : position + 4])
        if frame is None:
            position = data.find(b"\xff", position + 1)
            if position < 0:
                break
            continue
        rates.add(frame.bit_rate)
        position += frame.size
    return len(rates) == 1


def _frame(header: bytes) -> _Frame | None:
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    rate_index, sample_index = header[2] >> 4, header[2] >> 2 & 3
    valid = header[0] == 0xFF and header[1] >> 5 == 7 and version in _HALVINGS and layer == 1
    if not valid or rate_index in (0, 15) or sample_index == 3:
        return None
    bit_rate = _BIT_RATES[version == 3][rate_index] * 1000
    sample_rate = _SAMPLE_RATES[sample_index] // _HALVINGS[version]
    slots = 144 if version == 3 else 72
    return _Frame(slots * bit_rate // sample_rate + (header[2] >> 1 & 1), bit_rate)
