"""Measure the length of FLAC streams by their last frame instead of their header (RFC 9639).

The header of a FLAC that was written to a pipe says 0, which means unknown. Where several streams
were joined into one file, decoders read only the first.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from stable_audio.audio.flac_frames import Frame, crc16, frames_from_end
from stable_audio.audio.splice import Span, Stream, buffered

_TAIL = 1 << 16
_LONGEST_TAIL = 1 << 24
_TRIED = 3
"""Number of frame headers from the end whose frame is checked; earlier frames cannot be the last."""
_STREAMINFO = 0
_MAGIC = b"fLaC"
_SEARCHED = 1 << 20
"""Smaller files (bytes) are searched whole for joined streams; larger ones are probed first."""
_PROBES = (0.11, 0.23, 0.34, 0.47, 0.58, 0.69, 0.83, 0.94)
"""Fractions of a file at which the running sample count is read; in a single stream it never falls."""


class _Header(NamedTuple):
    """STREAMINFO at `info`.

    Attributes:
        audio: byte offset of the first frame.
        total: samples per channel; 0 means unknown.
        bits: bits per sample.
        md5: checksum of all samples; zeros mean unknown.
    """

    info: int
    audio: int
    block_size: int
    largest_frame: int
    channels: int
    bits: int
    total: int
    md5: bytes


def streams(file: BinaryIO, start: int, size: int) -> list[Stream]:
    """The stream that begins at `start`, and those joined to it, with corrected headers where necessary.

    Returns:
        empty where there are no frames.

    Raises:
        ValueError: one is cut off, or its header is damaged.
    """
    header = _read_header(file, start, size)
    stop = size - _tags_at_end(file, size)
    variable = _is_variable(file, header)
    last, _ = _last_frame(file, header, variable, stop) if stop > header.audio else (None, False)
    if last is not None and last.end == header.total and _is_single(file, header, variable, stop):
        return [Stream()]
    boundaries = [start, *_later_starts(file, header.audio, stop), size]
    parts = [_stream(file, *bounds) for bounds in itertools.pairwise(boundaries)]
    return [stream for stream in parts if stream is not None]


def _stream(file: BinaryIO, start: int, size: int) -> Stream | None:
    """The stream from byte `start` to `size`; None when it has no frames."""
    header = _read_header(file, start, size)
    stop = size - _tags_at_end(file, size)
    if stop <= header.audio:
        if header.total:
            raise ValueError(f"cut off: its header promises {header.total} samples, none is there")
        return None
    total = _total(file, header, start, stop)
    if total == header.total:
        return Stream((Span(start, stop - start),))
    return _corrected(file, header, start, stop, total)


def _corrected(file: BinaryIO, header: _Header, start: int, stop: int, total: int) -> Stream:
    file.seek(start)
    head = bytearray(file.read(header.info - start + 18))
    head[-5] = head[-5] & 0xF0 | total >> 32
    head[-4:] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    after = header.info + 18
    return Stream((bytes(head), Span(after, stop - after)))


def _is_single(file: BinaryIO, header: _Header, variable: bool, stop: int) -> bool:
    """Whether the file holds a single stream: its running sample count never falls.

    Where joined streams have the same length, the last one ends as the header of the first says.
    """
    length = stop - header.audio
    if length < _SEARCHED:
        return not _later_starts(file, header.audio, stop)
    end = 0
    for part in _PROBES:
        file.seek(header.audio + int(part * length))
        near = file.read(max(1 << 15, 3 * header.largest_frame))
        frames = list(frames_from_end(near, header.channels, header.block_size, variable))
        if frames and frames[-1].end < end:
            return False
        end = frames[-1].end if frames else end
    return True


def _later_starts(file: BinaryIO, position: int, stop: int) -> list[int]:
    """Byte offsets after `position` at which further streams begin."""
    starts: list[int] = []
    overlap = 8
    while position + overlap <= stop:
        file.seek(position)
        data = file.read(min(_SEARCHED, stop - position))
        at = data.find(_MAGIC)
        while at >= 0:
            if data[at + 4 : at + 5] in (b"\x00", b"\x80") and data[at + 5 : at + overlap] == b"\x00\x00\x22":
                starts.append(position + at)
            at = data.find(_MAGIC, at + 1)
        position += max(1, len(data) - overlap + 1)
    return starts


def _read_header(file: BinaryIO, start: int, size: int) -> _Header:
    position, info, last = start + 4, b"", False
    info_offset = 0
    while not last:
        file.seek(position)
        block = file.read(4)
        if len(block) < 4:
            raise ValueError("cut off within its header")
        last, length = block[0] >= 128, int.from_bytes(block[1:], "big")
        if block[0] & 127 == _STREAMINFO:
            info_offset, info = position + 4, file.read(34)
        position += 4 + length
        if position > size:
            raise ValueError("cut off within its header")
    if len(info) < 34:
        raise ValueError("damaged: its header has no STREAMINFO")
    packed = int.from_bytes(info[10:18], "big")
    return _Header(
        info_offset,
        position,
        int.from_bytes(info[:2], "big"),
        int.from_bytes(info[7:10], "big"),
        (packed >> 41 & 7) + 1,
        (packed >> 36 & 31) + 1,
        packed & (1 << 36) - 1,
        info[18:34],
    )


def _tags_at_end(file: BinaryIO, size: int) -> int:
    """Size in bytes of the ID3v1 tag at the end, which some programs append; 0 if there is none."""
    file.seek(max(0, size - 128))
    return 128 if size > 128 and file.read(3) == b"TAG" else 0


def _is_variable(file: BinaryIO, header: _Header) -> bool:
    """Whether frames differ in size, and are numbered by samples."""
    file.seek(header.audio)
    return file.read(2)[-1:] == b"\xf9"


def _total(file: BinaryIO, header: _Header, start: int, stop: int) -> int:
    variable = _is_variable(file, header)
    last, any_frame = _last_frame(file, header, variable, stop)
    if last is None:
        if not any_frame:
            raise ValueError("damaged: it has no frames")
        promise = f"its header promises {header.total} samples, and " if header.total else ""
        raise ValueError(f"cut off: {promise}its last frame is not whole")
    if last.end > (stop - header.audio) // 9 * 65535:  # a frame takes ten bytes at least
        raise ValueError("damaged: its last frame claims more sound than the file can hold")
    # Only the last frame of a stream is shorter than the others.
    ends = not variable and last.size < header.block_size
    if last.end < header.total and not ends and not _has_md5(file, header, start, stop, last.end):
        raise ValueError(f"cut off: its header promises {header.total} samples, {last.end} are there")
    return last.end


def _last_frame(file: BinaryIO, header: _Header, variable: bool, stop: int) -> tuple[Frame | None, bool]:
    """The last frame, or None if it is incomplete, and whether there is any frame."""
    reach = max(_TAIL, 2 * header.largest_frame)
    while True:
        start = max(header.audio, stop - reach)
        file.seek(start)
        tail = file.read(stop - start)
        number = -1
        frames = frames_from_end(tail, header.channels, header.block_size, variable)
        for number, frame in enumerate(frames):
            intact = number < _TRIED and crc16(tail[frame.offset :]) == 0
            if frame.end == header.total or intact:
                return frame, True
        if number >= 0 or start == header.audio or reach >= _LONGEST_TAIL:
            return None, number >= 0
        reach *= 16


def _has_md5(file: BinaryIO, header: _Header, start: int, stop: int, total: int) -> bool:
    """Whether the checksum in the header is that of the first `total` samples, so that none is missing."""
    if not any(header.md5):
        return False
    digest, width = hashlib.md5(usedforsecurity=False), -(-header.bits // 8)
    view = buffered(file, _corrected(file, header, start, stop, total))
    try:
        with soundfile.SoundFile(view) as sound:
            for block in sound.blocks(1 << 16, dtype="int32", always_2d=True):
                samples = (block >> 32 - header.bits).astype("<i4")
                digest.update(samples.view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    except soundfile.LibsndfileError:
        return False
    return digest.digest() == header.md5
