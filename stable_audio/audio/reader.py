"""Open a sound file once, read its properties, and read parts of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile
import torch
from torch import Tensor

from stable_audio.audio import channel_order, containers, mp3
from stable_audio.audio.errors import AudioError
from stable_audio.audio.layout import LayoutMemory, StreamLayout, read_layout
from stable_audio.audio.opening import naming, open_file
from stable_audio.audio.plausible import refuse_values
from stable_audio.audio.slices import FileSlice
from stable_audio.audio.splice import Stream, buffered
from stable_audio.audio.wav import is_placeholder

SAMPLE_RATES = (1000, 1_536_000)
"""Lowest and highest rate in Hz; outside, a header is wrong, and conversion would multiply the length."""

LARGEST_READ = 1 << 30
"""Largest number of values (samples times channels) in one read: 4 GiB."""

_AT_ONCE = 1 << 21
"""Largest number of values that one call decodes."""

_CUT_CHUNK = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_SOX_PLACEHOLDER = range(0x7F000000, 0x7F001000)
_VORBIS_PAGE = 255 * 1024
"""Samples in the longest page: 255 packets of half a long block."""


@dataclass(frozen=True)
class AudioInfo:
    """Properties of a sound file.

    Attributes:
        frames: samples per channel at `sample_rate` Hz.
        format: name of the format: WAV, FLAC, ...
        path: the file, as messages name it.
        part: the part of a larger file in which the sound lies; None if it is a file by itself.
    """

    path: str
    sample_rate: int
    frames: int
    channels: int
    format: str
    subtype: str
    part: FileSlice | None = None

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate

    @property
    def source(self) -> AudioSource:
        """The argument for `open_sound`."""
        return self.path if self.part is None else self.part


AudioSource = str | os.PathLike[str] | FileSlice
"""A sound file, or a sound file inside another file."""


class StreamDecoder(Protocol):
    """Reads one stream of a file.

    Attributes:
        format: container format, by libsndfile's or FFmpeg's name.
        subtype: encoding of the samples, by libsndfile's or FFmpeg's name.
    """

    sample_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples (c n) float32; fewer than `count` when the file ends early."""
        ...


class Sound:
    """An open sound file.

    Attributes:
        info: properties of the file.
    """

    def __init__(self, info: AudioInfo, decoders: list[StreamDecoder]) -> None:
        self.info = info
        self._decoders = decoders

    def read(self, start: int = 0, frames: int | None = None) -> Tensor:
        """Audio (c n) float32 from sample `start`; n is less than `frames` only at the end of the file.

        Raises:
            AudioError: the file is damaged, or ends before its header says.
            ValueError: `start` lies outside the file.
        """
        info = self.info
        if not 0 <= start <= info.frames:
            raise ValueError(f"{info.path}: start {start} lies outside the file's {info.frames} samples")
        count = info.frames - start if frames is None else min(frames, info.frames - start)
        if count * info.channels > LARGEST_READ:
            raise AudioError(info.path, f"{count} samples are too many to be read at once; read it in parts")
        with naming(info.path):
            samples = self._samples(start, count)
        if samples.shape[1] < count:
            length = start + samples.shape[1]
            raise AudioError(
                info.path, f"cut off: the header promises {info.frames} samples, {length} are there"
            )
        refuse_values(samples, info.path)
        return torch.from_numpy(samples)

    def _samples(self, start: int, count: int) -> np.ndarray:
        blocks: list[np.ndarray] = []
        for decoder in self._decoders:
            inside = min(count, max(0, decoder.frames - start))
            if inside or not blocks:
                blocks.append(decoder.read(min(start, decoder.frames), inside))
            start, count = max(0, start - decoder.frames), count - inside
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


@contextmanager
def open_sound(source: AudioSource, *, memory: LayoutMemory | None = None) -> Iterator[Sound]:
    """Open a sound file for several reads.

    Args:
        memory: cache of file layouts, for files that are opened again and again.

    Raises:
        AudioError: the file is missing, unreadable, empty, cut off, or not sound.
    """
    part = source if isinstance(source, FileSlice) else None
    name = source.name if isinstance(source, FileSlice) else os.fspath(source)
    with ExitStack() as stack:
        with naming(name):
            file = stack.enter_context(open_file(name, part))
            path, offset = (part.path, part.offset) if part is not None else (name, 0)
            layout = read_layout(file, name) if memory is None else memory.read(file, name, path, offset)
            if not layout.streams:
                raise AudioError(name, "holds no sound")
            decoders = [_decoder(file, stream, layout, name, stack) for stream in layout.streams]
            info = _joint_info(name, part, [d for d in decoders if d.frames > 0])
        yield Sound(info, [d for d in decoders if d.frames > 0])


def _decoder(
    file: BinaryIO, stream: Stream, layout: StreamLayout, name: str, stack: ExitStack
) -> StreamDecoder:
    if layout.through_av:
        return stack.enter_context(containers.open_container(name, file))
    return stack.enter_context(_open_soundfile(file, stream))


def _joint_info(name: str, part: FileSlice | None, decoders: list[StreamDecoder]) -> AudioInfo:
    if not decoders:
        raise AudioError(name, "holds no sound")
    first = decoders[0]
    for key, unit in (("sample_rate", "Hz"), ("channels", "channels")):
        values = sorted({getattr(decoder, key) for decoder in decoders})
        if len(values) > 1:
            differing = " and ".join(str(value) for value in values)
            raise AudioError(name, f"several files were joined to it, of {differing} {unit}; split it")
    low, high = SAMPLE_RATES
    if not low <= first.sample_rate <= high:
        raise AudioError(name, f"a sample rate of {first.sample_rate} Hz; {low} to {high} Hz are read")
    frames = sum(decoder.frames for decoder in decoders)
    return AudioInfo(name, first.sample_rate, frames, first.channels, first.format, first.subtype, part)


class _SoundfileDecoder:
    def __init__(self, file: soundfile.SoundFile, stream: Stream) -> None:
        self._file = file
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.frames = file.frames if stream.frames is None else stream.frames
        self.format, self.subtype = file.format, file.subtype
        self._order = channel_order.to_standard(self.subtype, self.channels)

    def read(self, start: int, count: int) -> np.ndarray:
        # Memory grows with what is decoded, not with what a header promises.
        blocks, largest = [np.empty((self.channels, 0), dtype=np.float32)], max(1, _AT_ONCE // self.channels)
        at = 0
        while at < count:
            block = self._block(start + at, min(count - at, largest)).T
            blocks.append(block if self._order is None else block[self._order])
            at += block.shape[1]
            if block.shape[1] == 0:
                break
        return np.ascontiguousarray(np.concatenate(blocks, axis=1))

    def _block(self, start: int, count: int) -> np.ndarray:
        """Samples (n c) by one call: soundfile seeks after each call, which resets the decoder's state."""
        begin = self._exact_position(start)
        self._file.seek(begin)
        return self._file.read(start - begin + count, dtype="float32", always_2d=True)[start - begin :]

    def _exact_position(self, start: int) -> int:
        """Where decoding must begin for the same samples from `start` on as in decoding the whole file."""
        if self.subtype == "VORBIS":  # libsndfile misses a target in the last page
            return max(0, min(start, self.frames - _VORBIS_PAGE))
        return max(0, start - mp3.PREROLL) if self.format == "MP3" else start


@contextmanager
def _open_soundfile(file: BinaryIO, stream: Stream) -> Iterator[_SoundfileDecoder]:
    # A plain file is read fastest by its descriptor, without a detour through Python.
    descriptor = _descriptor(file) if stream.pieces is None else None
    source: Any = buffered(file, stream) if descriptor is None else descriptor
    if descriptor is not None:
        os.lseek(descriptor, 0, os.SEEK_SET)
    with soundfile.SoundFile(source, closefd=False) as sound:
        chunk = _CUT_CHUNK.search(sound.extra_info)
        if chunk and int(chunk[1]) > int(chunk[2]) and not _is_unknown(int(chunk[1])):
            raise ValueError(f"cut off: its header promises {chunk[1]} bytes of sound, {chunk[2]} are there")
        if not sound.seekable():
            raise ValueError(f"its coding {sound.subtype} cannot be read from the middle; convert it")
        yield _SoundfileDecoder(sound, stream)


def _is_unknown(size: int) -> bool:
    return is_placeholder(size) or size in _SOX_PLACEHOLDER


def _descriptor(file: BinaryIO) -> int | None:
    try:
        return file.fileno()
    except OSError:
        return None
