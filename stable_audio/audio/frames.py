"""Frame headers of MPEG audio (ISO 11172-3, 13818-3, the unofficial 2.5), and the walk along them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import BinaryIO, NamedTuple

_BLOCK = 1 << 17
_LOOK = 192
"""Bytes of a frame to inspect when it may hold a tag."""
_TAG = re.compile(rb"Xing|Info|VBRI")
_TAG_END = 42
"""Bytes of a frame within which the name of a tag lies."""
_KBITS = {  # (MPEG 1, layer) -> bit rates; index 0 is free format, whose frames have no known size
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = (44100, 48000, 32000)
_HALVINGS = {3: 1, 2: 2, 0: 4}  # version bits of MPEG 1, 2, 2.5
_KIND = 0x1E0C
"""Bits of the second and third byte that all frames of a stream share: version, layer, sample rate."""
_OTHER_TAGS = (b"TAG", b"ID3", b"APE", b"LYR")


class Frames(NamedTuple):
    """`number` frames of one kind in a row.

    Attributes:
        head: first bytes of the first frame.
        tagged: True for a single frame that holds the name of an Info, Xing or VBRI header.
    """

    offset: int
    size: int
    number: int
    head: bytes
    tagged: bool


def id3_size(head: bytes) -> int:
    """Bytes of an ID3v2 tag that begins with `head` (10 bytes); 0 if it is not one."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    footer = 10 if head[5] & 0x10 else 0
    return 10 + footer + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))


def kind_of(head: bytes) -> int:
    """The bits of a frame header that are equal in all frames of a stream."""
    return (head[1] << 8 | head[2]) & _KIND


@lru_cache(maxsize=1)
def _frame_sizes() -> dict[int, dict[int, int]]:
    """Kind -> second and third byte of a header -> bytes of the frame."""
    sizes: dict[int, dict[int, int]] = {}
    for version in _HALVINGS:
        for layer in (1, 2, 3):
            for bits in range(512):
                length = _size(version, layer, bits)
                key = (0xE0 | version << 3 | (4 - layer) << 1 | bits >> 8) << 8 | bits & 0xFF
                if length:
                    sizes.setdefault(key & _KIND, {})[key] = length
    return sizes


def _size(version: int, layer: int, bits: int) -> int:
    """Bytes of the frame with this header; 0 when there is no such frame.

    Args:
        bits: the header's protection bit, bit rate (4), sample rate (2), padding and private bit.
    """
    rate_index, sample_index, padding = bits >> 4 & 15, bits >> 2 & 3, bits >> 1 & 1
    if rate_index in (0, 15) or sample_index == 3:
        return 0
    rate = _SAMPLE_RATES[sample_index] // _HALVINGS[version]
    bit_rate = _KBITS[version == 3, layer][rate_index] * 1000
    if layer == 1:
        return (12 * bit_rate // rate + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bit_rate // rate + padding


def frame_size(head: bytes) -> int:
    """Bytes of the frame that begins with `head`; 0 if it is not one."""
    return _frame_sizes().get(kind_of(head), {}).get(head[1] << 8 | head[2], 0)


def exact_size(head: bytes) -> float:
    """Mean bytes of the frames of one bit rate, padding included."""
    version, layer, rate_index = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4
    rate = _SAMPLE_RATES[head[2] >> 2 & 3] / _HALVINGS[version]
    return samples_per_frame(head) / 8 * _KBITS[version == 3, layer][rate_index] * 1000 / rate


def samples_per_frame(head: bytes) -> int:
    """Samples per channel of the frame that begins with `head`."""
    layer, first = 4 - (head[1] >> 1 & 3), head[1] & 8 != 0
    return 384 if layer == 1 else 576 if layer == 3 and not first else 1152


def walk(file: BinaryIO, start: int, size: int) -> Iterator[Frames]:
    """All whole frames from `start` on, in order; tags, zeros and damage between them are skipped.

    Args:
        size: bytes of the file.
    """
    position = _next_frame(file, start, size)
    while position + 4 <= size:
        file.seek(position)
        data = file.read(_BLOCK)
        end = size
        for frames in _in_block(data, at_end=position + len(data) >= size):
            yield frames._replace(offset=position + frames.offset)
            end = frames.offset + frames.size
        if not data or end == size:
            return
        safe_end = len(data) - _LOOK
        position = position + end if end >= safe_end else _next_frame(file, position + end, size)


def _in_block(data: bytes, at_end: bool) -> Iterator[Frames]:
    """Consecutive frames from the start of `data` up to the first bytes that are none, or near its end."""
    end = len(data) - 3 if at_end else max(1, len(data) - _LOOK)
    size = len(data) if at_end else len(data) + _BLOCK
    sizes = _frame_sizes().get(kind_of(data), {})
    at = 0
    while at < end:
        begin, (at, count) = at, _skip_plain(data, at, end, size, sizes)
        if count:
            yield Frames(begin, at - begin, count, data[begin : begin + 4], False)
        length = sizes.get(data[at + 1] << 8 | data[at + 2], 0) if at < end and data[at] == 0xFF else 0
        if not length or at + length > size:
            return
        yield Frames(at, length, 1, data[at : at + _LOOK], True)
        at += length


def _skip_plain(data: bytes, at: int, end: int, size: int, sizes: Mapping[int, int]) -> tuple[int, int]:
    """Skip frames from `at` on, up to `end`, a frame with a tag or something that is no frame.

    Returns:
        the position reached, and the number of frames skipped.
    """
    count = 0
    while at < end and data[at] == 0xFF:
        length = sizes.get(data[at + 1] << 8 | data[at + 2])
        if length is None or at + length > size:
            break
        # A frame with a tag has no sound, so that its side information is zero.
        if not data[at + 8] and not data[at + 12] and _TAG.search(data, at, at + _TAG_END):
            break
        at += length
        count += 1
    return at, count


def _next_frame(file: BinaryIO, position: int, size: int) -> int:
    """Position of the first frame at or after `position`; `size` if there is none."""
    while position + 4 <= size:
        file.seek(position)
        data = file.read(_BLOCK)
        tag = id3_size(data[:10])
        if 0 < tag <= size - position:
            position += tag
            continue
        at = data.find(b"\xff")
        while 0 <= at < len(data) - 3:
            head = data[at : at + 3]
            length = frame_size(head)
            if length and _continues(file, position + at + length, size, kind_of(head)):
                return position + at
            at = data.find(b"\xff", at + 1)
        position += max(1, len(data) - 3)
    return size


def _continues(file: BinaryIO, position: int, size: int, kind: int) -> bool:
    """Whether a frame of the same kind, a tag or the end of the file is at `position`.

    This confirms a frame before it, since a sync word alone occurs by chance.
    """
    if position + 3 > size:
        return position <= size
    file.seek(position)
    head = file.read(3)
    return head in _OTHER_TAGS or (head[0] == 0xFF and kind_of(head) == kind and frame_size(head) > 0)
