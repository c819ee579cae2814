"""Frames of a FLAC stream, by their headers and checksums (RFC 9639, section 9.1)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_BLOCK_SIZES = {1: 192, **{n: 576 << n - 2 for n in range(2, 6)}, **{n: 256 << n - 8 for n in range(8, 16)}}


class Frame(NamedTuple):
    """A frame of the stream.

    Attributes:
        offset: byte offset of the frame.
        size: samples per channel in the frame.
        end: samples of the stream up to the end of the frame.
    """

    offset: int
    size: int
    end: int


def frames_from_end(tail: bytes, channels: int, block_size: int, variable: bool) -> Iterator[Frame]:
    """Frame headers in `tail`, the last one first.

    Args:
        block_size: samples per frame in streams of equal frames.
        variable: whether the frames differ in size.
    """
    sync = b"\xff\xf9" if variable else b"\xff\xf8"
    at = tail.rfind(sync)
    while at >= 0:
        frame = _frame(tail[at : at + 16], at, channels, block_size, variable)
        if frame is not None:
            yield frame
        at = tail.rfind(sync, 0, at + 1)


def _frame(head: bytes, offset: int, channels: int, block_size: int, variable: bool) -> Frame | None:
    """The frame that begins with `head`; None if `head` is no frame header of the stream."""
    if len(head) < 6 or head[3] & 1:
        return None
    size_code, rate_code, channel_code = head[2] >> 4, head[2] & 15, head[3] >> 4
    coded = channel_code + 1 if channel_code < 8 else 2
    if size_code == 0 or rate_code == 15 or channel_code > 10 or coded != channels:
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
    return Frame(offset, size, (number if variable else number * block_size) + size)


def _coded_number(head: bytes, at: int) -> tuple[int | None, int]:
    """A number of one to seven bytes, coded as UTF-8 codes characters, and the position after it."""
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


def crc16(data: bytes) -> int:
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
