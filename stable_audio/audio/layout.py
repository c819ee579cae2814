"""Recognise the kind of a sound file by its first bytes, and find the streams in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from stable_audio.audio import flac, mp3, ogg, wav
from stable_audio.audio.frames import frame_size, id3_size
from stable_audio.audio.splice import Span, Stream

Find = Callable[[BinaryIO, int, int], list[Stream]]
"""(file, offset of the sound, size of the file) -> its streams. Raises ValueError when it is damaged."""


class StreamLayout(NamedTuple):
    """The streams of a file and the library that reads them.

    Attributes:
        streams: the streams of one file, or of several files that were joined.
        through_av: True where PyAV reads the file instead of libsndfile.
    """

    streams: list[Stream]
    through_av: bool = False


class LayoutMemory:
    """A cache of file layouts, each valid for as long as its file does not change.

    Counting the frames of an mp3 takes longer than decoding a clip of it. At most `size` layouts are kept.
    """

    def __init__(self, size: int = 1 << 14) -> None:
        self._size = size
        self._layouts: dict[tuple[str, int], tuple[tuple[int, int], StreamLayout]] = {}

    def read(self, file: BinaryIO, name: str, path: str, offset: int) -> StreamLayout:
        """`read_layout` of the sound at `offset` in the file `path`, from the cache where possible."""
        state = os.stat(path)
        stamp, key = (state.st_size, state.st_mtime_ns), (path, offset)
        entry = self._layouts.pop(key, None)
        layout = entry[1] if entry is not None and entry[0] == stamp else read_layout(file, name)
        self._layouts[key] = stamp, layout
        if len(self._layouts) > self._size:
            del self._layouts[next(iter(self._layouts))]
        return layout


_BY_MAGIC: dict[bytes, Find] = {
    b"fLaC": flac.streams,
    b"OggS": ogg.streams,
    b"RIFF": wav.streams,
    b"RF64": wav.streams,
}


_ADTS = (b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9")


def read_layout(file: BinaryIO, name: str) -> StreamLayout:
    """The layout of an open file; the suffix of `name` decides where the first bytes are not conclusive.

    Raises:
        ValueError: it is empty, cut off or damaged.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise ValueError("is empty (0 bytes)")
    start = _sound_start(file, size)
    file.seek(start)
    head = file.read(12)
    streams = _streams(file, start, size, head, name)
    if streams is None:
        return StreamLayout([Stream()], through_av=True)
    # Decoders may not know the tags before the sound.
    sound = Stream((Span(start, size - start),))
    streams = [sound if stream.pieces is None else stream for stream in streams]
    return StreamLayout([Stream() if stream == Stream((Span(0, size),)) else stream for stream in streams])


def _streams(file: BinaryIO, start: int, size: int, head: bytes, name: str) -> list[Stream] | None:
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3":  # mp4, Matroska
        return None
    if head[:2] in _ADTS and not frame_size(head[:3].ljust(3)):  # AAC without a container
        return None
    if head[:4] in _BY_MAGIC:
        streams = _BY_MAGIC[head[:4]](file, start, size)
        # libsndfile knows FLAC in Ogg, but not in every build.
        return None if head[:4] == b"OggS" and ogg.holds_flac(file, start, streams) else streams
    if start > 0 or frame_size(head[:3].ljust(3)) or name.lower().endswith((".mp3", ".mp2")):
        streams = mp3.streams(file, start, size)
        if start > 0 or streams:
            return streams
    return [Stream()]


def _sound_start(file: BinaryIO, size: int) -> int:
    """Offset at which the sound begins, after ID3v2 tags and the zeros that pad them."""
    start = 0
    while True:
        file.seek(start)
        tag = id3_size(file.read(10))
        if tag == 0 or start + tag >= size:
            return start
        start += tag
        start += _zeros(file, start)


def _zeros(file: BinaryIO, start: int) -> int:
    """Number of zero bytes from `start` on."""
    file.seek(start)
    count = 0
    while block := file.read(1 << 16):
        sounding = len(block.lstrip(b"\0"))
        count += len(block) - sounding
        if sounding:
            break
    return count
