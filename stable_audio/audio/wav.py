"""Measure how much sound a wav file holds; after writing to a pipe, its header holds only a placeholder."""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from stable_audio.audio.splice import Span, Stream

_NEAR = 1 << 16
"""Placeholders are this near to 2**31 or 2**32: programs subtract the size of their header, or round."""
_JUNK = 4096
"""Bytes after the sound that are ignored even if they are no chunk."""
_LARGEST = 1 << 32


class _Data(NamedTuple):
    """The data chunk.

    Attributes:
        head: the chunks before the data chunk.
        begin: byte offset of the sound.
        declared: size in bytes that the header gives.
    """

    head: bytes
    begin: int
    declared: int


def is_placeholder(size: int) -> bool:
    """Whether a 32-bit size in a header is a placeholder for an unknown size."""
    return size == 0 or abs(size - (1 << 31)) <= _NEAR or size >= _LARGEST - _NEAR


def streams(file: BinaryIO, start: int, size: int) -> list[Stream]:
    """The sound of a RIFF or RF64 file, with a true header where its own is wrong.

    Raises:
        ValueError: it is cut off, or holds more sound than its header declares.
    """
    data = _find_data(file, start, size)
    if data is None:
        return [Stream()]  # the decoder says what is wrong with it
    if (next_start := _next_wav(file, data, size)) is not None:
        return [
            Stream((Span(start, next_start - start),)),
            *_bounded(streams(file, next_start, size), next_start, size),
        ]
    length = _length(file, data, size)
    if length == data.declared:
        return [Stream()]
    return [Stream((_header(data.head, length), Span(data.begin, length)))]


def _bounded(parts: list[Stream], begin: int, size: int) -> list[Stream]:
    return [Stream((Span(begin, size - begin),)) if stream.pieces is None else stream for stream in parts]


def _next_wav(file: BinaryIO, data: _Data, size: int) -> int | None:
    """Offset of another wav file among the chunks after the sound; None if there is none."""
    position = data.begin + data.declared + data.declared % 2
    while data.declared > 0 and position + 12 <= size:
        file.seek(position)
        name, length, form = struct.unpack("<4sI4s", file.read(12))
        if name in (b"RIFF", b"RF64") and form == b"WAVE":
            return position
        if not all(32 <= c < 127 for c in name):
            return None
        position += 8 + length + length % 2
    return None


def _find_data(file: BinaryIO, start: int, size: int) -> _Data | None:
    file.seek(start)
    wide = file.read(12)[:4] == b"RF64"
    head, position, length64 = b"", start + 12, 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            declared = length64 if wide and length >= _LARGEST - 1 else length
            return _Data(head, position + 8, declared)
        if name == b"ds64":
            length64 = int.from_bytes(file.read(16)[8:], "little")
        elif name in (b"fmt ", b"fact") and length <= _NEAR:
            content = file.read(length)
            head += struct.pack("<4sI", name, length) + content + b"\0" * (length % 2)
        position += 8 + length + length % 2
    return None


def _length(file: BinaryIO, data: _Data, size: int) -> int:
    """Bytes of sound that the file really holds."""
    available = size - data.begin
    if data.declared == 0 and _are_chunks(file, data.begin, size):
        return 0
    if data.declared > available or data.declared == 0:
        if is_placeholder(data.declared):
            return available
        raise ValueError(
            f"cut off: its header promises {data.declared} bytes of sound, {available} are there"
        )
    surplus = available - data.declared
    if surplus >= _LARGEST - 1 and surplus % _LARGEST <= 1:
        return available  # the size had no room for more than 32 bits
    if surplus > _JUNK and not _are_chunks(file, data.begin + data.declared + data.declared % 2, size):
        raise ValueError(
            f"damaged: its header declares {data.declared} bytes of sound, and {surplus} more follow; "
            "repair it, for example with `ffmpeg -ignore_length 1 -i OLD NEW`"
        )
    return data.declared


def _are_chunks(file: BinaryIO, position: int, size: int) -> bool:
    """Whether a chunk begins at `position`, or the file ends there."""
    if position >= size:
        return True
    file.seek(position)
    head = file.read(8)
    name, length = head[:4], int.from_bytes(head[4:], "little")
    return len(head) == 8 and all(32 <= c < 127 for c in name) and position + 8 + length <= size + 1


def _header(head: bytes, length: int) -> bytes:
    if length + len(head) + 20 < _LARGEST - _NEAR:
        riff = struct.pack("<4sI4s", b"RIFF", 4 + len(head) + 8 + length, b"WAVE")
        return riff + head + struct.pack("<4sI", b"data", length)
    riff_size = 4 + 36 + len(head) + 8 + length
    wide = struct.pack("<4sI4s4sIQQQI", b"RF64", _LARGEST - 1, b"WAVE", b"ds64", 28, riff_size, length, 0, 0)
    return wide + head + struct.pack("<4sI", b"data", _LARGEST - 1)
