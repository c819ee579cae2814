"""A repair of Ogg Vorbis files that libsndfile has written."""

from __future__ import annotations

import itertools
import struct
from functools import lru_cache
from pathlib import Path

from stable_audio.audio.ogg import Page, pages

_ENDS = 4
_CHECKSUM = slice(22, 26)


def split_single_page(path: Path) -> None:
    """If all sound lies in one page, move its first packet into a separate page.

    FFmpeg cuts the end of a stream to its true length by the position of the page before the last one;
    without such a page it decodes some hundred samples too many. The first packet alone yields no sample, so
    that its page ends at position 0.
    """
    with path.open("rb") as file:
        # In a long file, the first few pages hold a second page with sound.
        sounding = [p for p in itertools.islice(pages(file, 0, path.stat().st_size), 8) if p.granule != 0]
        if len(sounding) != 1 or sounding[0].packets < 2:
            return
        (page,) = sounding
        file.seek(0)
        content = file.read()
    first = next(i for i, segment in enumerate(page.lacing) if segment < 255) + 1
    begin = page.offset + 27 + len(page.lacing)
    middle = begin + sum(page.lacing[:first])
    end = page.offset + page.size
    pieces = (
        _page(page, 0, page.flags & ~_ENDS, page.number, page.lacing[:first], content[begin:middle]),
        _page(page, page.granule, page.flags, page.number + 1, page.lacing[first:], content[middle:end]),
    )
    path.write_bytes(content[: page.offset] + b"".join(pieces) + content[end:])


def _page(page: Page, granule: int, flags: int, number: int, lacing: bytes, content: bytes) -> bytes:
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, page.serial, number, 0, len(lacing))
    data = bytearray(head + lacing + content)
    data[_CHECKSUM] = checksum(data).to_bytes(4, "little")
    return bytes(data)


def checksum(page: bytes | bytearray) -> int:
    """CRC-32 of a page whose own checksum is 0 (RFC 3533, section 6)."""
    table = _table()
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ table[crc >> 24 ^ byte]
    return crc


@lru_cache(maxsize=1)
def _table() -> list[int]:
    table = []
    for crc in range(0, 1 << 32, 1 << 24):
        for _ in range(8):
            crc = (crc << 1 ^ (0x104C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(crc)
    return table
