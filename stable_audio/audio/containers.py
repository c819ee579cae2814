"""m4a and other containers through PyAV, with exact positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stable_audio.audio import pyav
from stable_audio.audio.errors import AudioError

_WARM_UP = 8192
"""Samples decoded before the requested ones: transform codecs need the preceding frames."""

_LONGEST_GAP = 10
"""Gaps between frames of up to this many seconds count as silence."""

_SLACK = 4096
"""Samples by which a declared length may exceed the packets; decoding shows what is really missing."""


def _av(path: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise AudioError(path, 'is read by PyAV: pip install "stable-audio[av]"') from error
    return av


@contextmanager
def open_container(path: str, file: BinaryIO) -> Iterator[AvDecoder]:
    """Decode the first audio stream of an open file.

    Raises:
        AudioError: PyAV is missing, or the file is damaged or holds no sound.
    """
    av = _av(path)
    file.seek(0)
    with _errors(path, av):
        container = pyav.open_container(file)
    with container:
        yield AvDecoder(path, av, container)


@contextmanager
def _errors(path: str, av: Any) -> Iterator[None]:
    try:
        yield
    except av.FFmpegError as error:
        raise AudioError(path, f"damaged: {error.strerror or error}") from error


class AvDecoder:
    """One audio stream of a container. See reader.Decoder."""

    def __init__(self, path: str, av: Any, container: Any) -> None:
        self._path, self._av, self._container = path, av, container
        with _errors(path, av):
            if not container.streams.audio:
                raise AudioError(path, "has no audio stream")
            self._stream = container.streams.audio[0]
            context = self._stream.codec_context
            if context is None:
                raise AudioError(path, "its audio codec is unknown to FFmpeg")
            self.sample_rate, self.channels = context.sample_rate, context.layout.nb_channels
            if not self.sample_rate or not self.channels:
                raise AudioError(path, "damaged: it has no sample rate, or no channels")
            self.format = container.format.name.split(",")[0].upper()
            self.subtype = context.name.upper()
            # Time stamps in whole milliseconds cannot identify a sample, AAC without a container has none,
            # and FFmpeg seeks to wrong places in FLAC in Ogg; then only counting from the start is exact.
            self._coarse = self._stream.time_base * self.sample_rate > 1 or self.format in ("AAC", "OGG")
            self.frames = self._count()

    def _count(self) -> int:
        """Samples per channel: the declared number, limited to what the packets hold."""
        rate, stream = self.sample_rate, self._stream
        if self._coarse or stream.duration is None:
            return self._decoded_length()
        declared = round(stream.duration * stream.time_base * rate)
        available = self._end_of_packets(stream.duration)
        if available < declared - _SLACK:
            raise AudioError(
                self._path, f"cut off: the header promises {declared} samples, about {available} are there"
            )
        return declared

    def _end_of_packets(self, duration: int) -> int:
        self._container.seek(max(0, duration - 1), stream=self._stream)
        end = 0
        for packet in self._container.demux(self._stream):
            if packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
        return round(end * self._stream.time_base * self.sample_rate)

    def _decoded_length(self) -> int:
        self._container.seek(0)
        return sum(frame.samples for frame in self._container.decode(self._stream))

    def read(self, start: int, count: int) -> np.ndarray:
        """Positions come from the frames' time stamps, or from counting where these are too coarse."""
        with _errors(self._path, self._av):
            return self._read(start, count)

    def _read(self, start: int, count: int) -> np.ndarray:
        before = 0 if self._coarse else max(0, start - _WARM_UP)
        self._container.seek(int(before / self.sample_rate / self._stream.time_base), stream=self._stream)
        # Interleaved, because PyAV crashes on planes of eight channels.
        resampler = self._av.AudioResampler(format="flt")
        blocks: list[tuple[int, np.ndarray]] = []
        end = position = 0
        for frame in self._container.decode(self._stream):
            offset = (position if self._coarse else self._position(frame)) - start
            if offset >= count:
                break
            arrays = [f.to_ndarray().reshape(-1, self.channels) for f in resampler.resample(frame)]
            block = np.concatenate(arrays).T
            position += block.shape[1]
            lo, hi = max(offset, 0), min(offset + block.shape[1], count)
            if hi > lo:
                if lo - end > _LONGEST_GAP * self.sample_rate:
                    raise AudioError(self._path, f"damaged: {lo - end} samples are missing within it")
                blocks.append((lo, block[:, lo - offset : hi - offset]))
                end = max(end, hi)
        out = np.zeros((self.channels, end), dtype=np.float32)
        for lo, block in blocks:
            out[:, lo : lo + block.shape[1]] = block
        return out

    def _position(self, frame: Any) -> int:
        if frame.pts is None:
            raise AudioError(self._path, "damaged: frames without time stamps")
        return round(frame.pts * frame.time_base * self.sample_rate)


def write_samples(
    path: Path,
    samples: np.ndarray,
    sample_rate: int,
    *,
    bit_rate: int = 192_000,
    comment: str | None = None,
) -> None:
    """Write (c n) float32 as AAC in m4a."""
    av = _av(str(path))
    if len(samples) > 2:
        raise AudioError(str(path), f"m4a is written with 1 or 2 channels; found {len(samples)}")
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", format="ipod") as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = container.add_stream("aac", rate=sample_rate, bit_rate=bit_rate)
        stream.layout = layout
        for start in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = sample_rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
