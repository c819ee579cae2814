"""Read the pages of an Ogg file (RFC 3533) to find its joined streams and to check that they are complete.

Decoders stop after the first stream of a chain, and do not notice that the end of a file is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from stable_audio.audio.splice import Span, Stream

_HEADER = struct.Struct("<4sBBqIIIB")
_LOOK = 27 + 255 + 32
"""Bytes of a page that are read: its header, and the beginning of its content."""
_BLOCK = 1 << 16
_BEGINS, _ENDS = 2, 4
_NO_PACKET_ENDS = -1
REPAIR = "repair it, for example with `ffmpeg -i OLD -c copy NEW`"


class Page(NamedTuple):
    """A page of an Ogg file.

    Attributes:
        flags: 2 on the first page of a stream, 4 on the last.
        granule: samples of the stream up to the end of the page.
        lacing: sizes of the page's segments.
        head: first bytes of the segments.
    """

    offset: int
    size: int
    flags: int
    granule: int
    serial: int
    number: int
    lacing: bytes
    head: bytes

    @property
    def packets(self) -> int:
        """Packets that end on this page."""
        return len(self.lacing) - self.lacing.count(255)


@dataclass
class _Link:
    """One stream of a chain, while its pages are read.

    Attributes:
        longest: samples in the longest packet of the stream.
        sounding: whether a page with sound was read.
    """

    begin: int
    serial: int
    longest: int
    end: int = 0
    number: int = 0
    granule: int = 0
    ended: bool = False
    sounding: bool = False


def streams(file: BinaryIO, start: int, size: int) -> list[Stream]:
    """The streams of a chain, one after another.

    Raises:
        ValueError: pages are missing in the middle or at the end, or promise more sound than they have.
    """
    links: list[_Link] = []
    at_beginning = False
    for page in pages(file, start, size):
        if page.flags & _BEGINS:
            if not at_beginning:
                links.append(_Link(page.offset, page.serial, _longest_packet(page), number=page.number))
            elif not links[-1].longest:  # a skeleton or a picture came first
                link = links[-1]
                link.serial, link.longest, link.number = page.serial, _longest_packet(page), page.number
        elif links:
            _add(links[-1], page)
        at_beginning = bool(page.flags & _BEGINS)
        if links:
            links[-1].end = page.offset + page.size
    file.seek(links[-1].end if links else start)
    partial_page = file.read(4) == b"OggS"  # a page that is not whole
    for link in links:
        if not link.ended or partial_page:
            raise ValueError(f"cut off: the end of its Ogg stream is missing; {REPAIR}")
    if len(links) <= 1 and all(link.begin == start for link in links):
        return [Stream()]
    return [Stream((Span(link.begin, link.end - link.begin),)) for link in links]


def holds_flac(file: BinaryIO, start: int, chain: list[Stream]) -> bool:
    """Whether the sound is FLAC, which PyAV reads.

    Raises:
        ValueError: several FLAC streams were joined, of which PyAV would read only the first.
    """
    file.seek(start)
    page = _page(file.read(_LOOK), start)
    if page is None or page.head[:5] != b"\x7fFLAC":
        return False
    if len(chain) > 1:
        raise ValueError(f"{len(chain)} FLAC streams were joined to one Ogg file; split it")
    return True


def pages(file: BinaryIO, start: int, size: int) -> Iterator[Page]:
    """All complete pages; bytes between them are skipped."""
    position = start
    while position + _HEADER.size <= size:
        file.seek(position)
        page = _page(file.read(_LOOK), position)
        if page is None or position + page.size > size:
            position = _next_magic(file, position + 1, size)
        else:
            yield page
            position += page.size


def _page(head: bytes, position: int) -> Page | None:
    magic, _, flags, granule, serial, number, _, segments = _HEADER.unpack_from(head.ljust(_HEADER.size))
    content = _HEADER.size + segments
    lacing = head[_HEADER.size : content]
    if magic != b"OggS" or len(lacing) < segments:
        return None
    return Page(position, content + sum(lacing), flags, granule, serial, number, lacing, head[content:])


def _next_magic(file: BinaryIO, position: int, size: int) -> int:
    """Offset at which the next page may begin; `size` if there is none."""
    while position < size:
        file.seek(position)
        data = file.read(_BLOCK)
        at = data.find(b"OggS")
        if at >= 0:
            return position + at
        position += max(1, len(data) - 3)
    return size


def _longest_packet(page: Page) -> int:
    """Samples in the longest packet of a stream that begins with `page`; 0 if it has no sound."""
    head = page.head
    if head[:7] == b"\x01vorbis" and len(head) > 28:
        return 1 << (head[28] >> 4)
    if head[:8] == b"OpusHead":
        return 5760
    if head[:5] == b"\x7fFLAC":
        return 65535
    return 1 << 16 if head[:5] == b"Speex" else 0


def _add(link: _Link, page: Page) -> None:
    if page.serial != link.serial:
        return
    if page.number > link.number + 1:
        raise ValueError(f"damaged: {page.number - link.number - 1} pages are missing within it")
    link.number = page.number
    link.ended = bool(page.flags & _ENDS)
    if page.granule == _NO_PACKET_ENDS or (page.granule == 0 and not link.sounding):
        return
    # The first position is unchecked: a recording of a broadcast may begin anywhere.
    has_position = link.sounding or link.ended
    if has_position and not 0 <= page.granule - link.granule <= (page.packets + 1) * link.longest:
        raise ValueError(
            f"damaged: one of its pages says that it ends at sample {page.granule}, which is impossible"
        )
    link.granule, link.sounding = page.granule, True
