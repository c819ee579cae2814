"""Virtual files composed of byte ranges of another file and of new bytes, without a copy on disk.

Decoders trust the header of a file. Where it is wrong, they read such a virtual file instead: a corrected
header, followed by the sound itself.
"""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from stable_audio.audio.slices import SeekableBytes


class Span(NamedTuple):
    """`size` bytes of a file from `offset`."""

    offset: int
    size: int


Piece = bytes | Span
"""New bytes, or a range of the file."""


class Stream(NamedTuple):
    """One sound in a file, as a decoder must read it.

    Attributes:
        pieces: the byte ranges and bytes to read; None reads the file as it is.
        frames: samples per channel, where the decoder would have to guess.
        claimed: size in bytes to report to the decoder, so that it does not guess too few samples.
    """

    pieces: tuple[Piece, ...] | None = None
    frames: int | None = None
    claimed: int | None = None


class Spliced(SeekableBytes):
    """The pieces one after another as one seekable file; `file` stays open when this is closed.

    Args:
        claimed: size that the file pretends to have; zeros follow its true end.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece], claimed: int | None = None) -> None:
        self._file, self._pieces, self._at = file, pieces, 0
        sizes = [piece.size if isinstance(piece, Span) else len(piece) for piece in pieces]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._end = self._starts[-1] if claimed is None else claimed

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at >= self._starts[-1] or not len(buffer):
            return self._zeros(buffer)
        number = bisect.bisect_right(self._starts, self._at) - 1
        inside = self._at - self._starts[number]
        count = min(len(buffer), self._starts[number + 1] - self._at)
        piece = self._pieces[number]
        if isinstance(piece, Span):
            self._file.seek(piece.offset + inside)
            content = self._file.read(count)
        else:
            content = piece[inside : inside + count]
        memoryview(buffer)[: len(content)] = content
        self._at += len(content)
        return len(content)

    def _zeros(self, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self._end - self._at))
        memoryview(buffer)[:count] = bytes(count)
        self._at += count
        return count


def buffered(file: BinaryIO, stream: Stream) -> BinaryIO:
    """The bytes of `stream` as a file that decoders can read."""
    pieces = stream.pieces if stream.pieces is not None else (Span(0, file.seek(0, io.SEEK_END)),)
    return io.BufferedReader(Spliced(file, pieces, stream.claimed), buffer_size=1 << 16)
