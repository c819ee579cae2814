"""How long a FLAC stream is: its last frame says, whatever the header promises (RFC 9639).

A FLAC written to a pipe has 0 there, which means unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from stable_audio.audio.splice import Span, Stream

_TAIL = 1 << 16
_LONGEST_TAIL = 1 << 24
_TRIED = 3
"""Frame headers at the end whose frame is checked; earlier ones are no last frames."""
_STREAMINFO = 0
_BLOCK_SIZES = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}


class _Header(NamedTuple):
    """STREAMINFO at `info`. audio: offset of the first frame. total: samples per channel, 0 = unknown."""

    info: int
    audio: int
    block_size: int
    largest_frame: int
    channels: int
    total: int


class _Frame(NamedTuple):
    offset: int
    end: int
    """Samples up to the end of this frame."""


def streams(file: BinaryIO, start: int, size: int) -> list[Stream]:
    """The stream that begins at `start`, its header corrected where need be. Empty: it has no frames.

    Raises:
        ValueError: it is cut off, or its header is damaged.
    """
    header = _read_header(file, start, size)
    size -= _tags_at_end(file, size)
    if size <= header.audio:
        if header.total:
            raise ValueError(f"cut off: its header promises {header.total} samples, none is there")
        return []
    total = _total(file, header, size)
    if total == header.total:
        return [Stream()]
    file.seek(start)
    head = bytearray(file.read(header.info - start + 18))
    head[-5] = head[-5] & 0xF0 | total >> 32
    head[-4:] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    after = header.info + 18
    return [Stream((bytes(head), Span(after, size - after)))]


def _read_header(file: BinaryIO, start: int, size: int) -> _Header:
    position, info, last = start + 4, b"", False
    place = 0
    while not last:
        file.seek(position)
        block = file.read(4)
        if len(block) < 4:
            raise ValueError("cut off within its header")
        last, length = block[0] >= 128, int.from_bytes(block[1:], "big")
        if block[0] & 127 == _STREAMINFO:
            place, info = position + 4, file.read(34)
        position += 4 + length
        if position > size:
            raise ValueError("cut off within its header")
    if len(info) < 34:
        raise ValueError("damaged: its header has no STREAMINFO")
    packed = int.from_bytes(info[10:18], "big")
    return _Header(
        place,
        position,
        int.from_bytes(info[:2], "big"),
        int.from_bytes(info[7:10], "big"),
        (packed >> 41 & 7) + 1,
        packed & (1 << 36) - 1,
    )


def _tags_at_end(file: BinaryIO, size: int) -> int:
    """Bytes of an ID3v1 tag, which some programs append."""
    file.seek(max(0, size - 128))
    return 128 if size > 128 and file.read(3) == b"TAG" else 0


def _total(file: BinaryIO, header: _Header, size: int) -> int:
    file.seek(header.audio)
    variable = file.read(2)[-1:] == b"\xf9"
    reach = max(_TAIL, 2 * header.largest_frame)
    while True:
        start = max(header.audio, size - reach)
        file.seek(start)
        tail = file.read(size - start)
        number = -1
        for number, frame in enumerate(_frames_from_end(tail, header, variable)):
            whole = number < _TRIED and _crc16(tail[frame.offset :]) == 0
            if frame.end == header.total or whole:
                return _checked(frame.end, header, size)
        if number >= 0 or start == header.audio or reach >= _LONGEST_TAIL:
            break
        reach *= 16
    if number < 0:
        raise ValueError("damaged: it has no frames")
    promise = f"its header promises {header.total} samples, and " if header.total else ""
    raise ValueError(f"cut off: {promise}its last frame is not whole")


def _checked(total: int, header: _Header, size: int) -> int:
    if total < header.total:
        raise ValueError(f"cut off: its header promises {header.total} samples, {total} are there")
    if total > (size - header.audio) // 9 * 65535:  # a frame takes ten bytes at least
        raise ValueError("damaged: its last frame claims more sound than the file can hold")
    return total


def _frames_from_end(tail: bytes, header: _Header, variable: bool) -> Iterator[_Frame]:
    """Frame headers in `tail`, the last one first."""
    sync = b"\xff\xf9" if variable else b"\xff\xf8"
    at = tail.rfind(sync)
    while at >= 0:
        end = _end_of_frame(tail[at : at + 16], header, variable)
        if end is not None:
            yield _Frame(at, end)
        at = tail.rfind(sync, 0, at + 1)


def _end_of_frame(head: bytes, header: _Header, variable: bool) -> int | None:
    """Samples up to the end of the frame; None when this is no frame header of the stream."""
    if len(head) < 6 or head[3] & 1:
        return None
    size_code, rate_code, channel_code = head[2] >> 4, head[2] & 15, head[3] >> 4
    channels = channel_code + 1 if channel_code < 8 else 2
    if size_code == 0 or rate_code == 15 or channel_code > 10 or channels != header.channels:
        return None
    number, at = _coded_number(head, 4)
    size = _BLOCK_SIZES.get(size_code, 0)
    if size_code in (6, 7):
        length = size_code - 5
        size = int.from_bytes(head[at : at + length], "big") + 1
        at += length
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if number is None or at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return (number if variable else number * header.block_size) + size


def _coded_number(head: bytes, at: int) -> tuple[int | None, int]:
    """A number of one to seven bytes, coded as UTF-8 codes characters, and the place behind it."""
    first = head[at]
    if first < 0x80:
        return first, at + 1
    length = 8 - (first ^ 0xFF).bit_length()
    if not 2 <= length <= 7 or at + length > len(head):
        return None, at
    number = first & (0x7F >> length)
    for byte in head[at + 1 : at + length]:
        number = number << 6 | byte & 0x3F
    return number, at + length


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x107 if crc & 0x80 else 0)) & 0xFF
    return crc


def _crc16(data: bytes) -> int:
    """0 over a whole frame, which ends with its checksum."""
    table = _crc16_table()
    crc = 0
    for byte in data:
        crc = (crc << 8 & 0xFF00) ^ table[crc >> 8 ^ byte]
    return crc


@lru_cache(maxsize=1)
def _crc16_table() -> list[int]:
    table = []
    for crc in range(0, 1 << 16, 1 << 8):
        for _ in range(8):
            crc = (crc << 1 ^ (0x18005 if crc & 0x8000 else 0)) & 0xFFFF
        table.append(crc)
    return table
