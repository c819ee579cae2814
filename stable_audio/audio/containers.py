"""m4a and other containers through PyAV, with exact positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stable_audio.audio.errors import AudioError

_WARM_UP = 8192
"""Samples decoded before the wanted ones: transform codecs need their predecessors."""


def _av(path: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise AudioError(path, 'm4a needs PyAV: pip install "stable-audio[av]"') from error
    return av


@contextmanager
def _open(path: str, file: str | BinaryIO) -> Iterator[tuple[Any, Any]]:
    av = _av(path)
    try:
        with av.open(file) as container:
            if not container.streams.audio:
                raise AudioError(path, "has no audio stream")
            yield container, container.streams.audio[0]
    except av.FFmpegError as error:
        raise AudioError(path, f"damaged: {error.strerror or error}") from error


def read_header(path: str, file: str | BinaryIO) -> tuple[int, int, int, str, str]:
    """sample rate, frames, channels, format, codec."""
    with _open(path, file) as (container, stream):
        rate = stream.rate
        if stream.duration is not None:
            frames = round(stream.duration * stream.time_base * rate)
        elif container.duration is not None:
            frames = round(container.duration * rate / 1_000_000)
        else:
            frames = sum(frame.samples for frame in container.decode(stream))
        if frames <= 0:
            raise AudioError(path, "holds no sound")
        name = container.format.name.split(",")[0].upper()
        return rate, frames, stream.codec_context.layout.nb_channels, name, stream.codec_context.name.upper()


def read_samples(path: str, start: int, count: int, file: str | BinaryIO) -> np.ndarray:
    """Samples (c n) float32 from `start`; positions come from the frames' time stamps."""
    av = _av(path)
    with _open(path, file) as (container, stream):
        rate, channels = stream.rate, stream.codec_context.layout.nb_channels
        out = np.zeros((channels, count), dtype=np.float32)
        if start > _WARM_UP:
            container.seek(int((start - _WARM_UP) / rate / stream.time_base), stream=stream)
        resampler = av.AudioResampler(format="fltp")
        end = 0
        for frame in container.decode(stream):
            if frame.pts is None:
                raise AudioError(path, "damaged: frames without time stamps")
            offset = round(frame.pts * frame.time_base * rate) - start
            if offset >= count:
                break
            block = np.concatenate([f.to_ndarray() for f in resampler.resample(frame)], axis=1)
            lo, hi = max(offset, 0), min(offset + block.shape[1], count)
            if hi > lo:
                out[:, lo:hi] = block[:, lo - offset : hi - offset]
                end = hi
        return out[:, :end]


def write_samples(path: Path, samples: np.ndarray, sample_rate: int, *, bit_rate: int = 192_000) -> None:
    """Write (c n) float32 as AAC in m4a."""
    av = _av(str(path))
    if len(samples) > 2:
        raise AudioError(str(path), f"m4a is written with 1 or 2 channels; found {len(samples)}")
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=sample_rate, bit_rate=bit_rate)
        stream.layout = layout
        for start in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = sample_rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
