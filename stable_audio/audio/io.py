"""The only reader and writer of sound files.

soundfile reads wav, flac, mp3, ogg, opus and aiff; PyAV (extra `[av]`) reads m4a and what else it can.
Only the asked part of a file is decoded. Samples are float32 in [-1, 1] by convention; nothing is
normalised, neither on reading nor on writing.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
from torch import Tensor

from stable_audio.audio import containers, mp3
from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.errors import AudioError
from stable_audio.audio.slices import FileSlice

_LOG = logging.getLogger(__name__)

AUDIO_EXTENSIONS = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".aif", ".aiff", ".aifc", ".opus", ".m4a"}
)

DEFAULT_SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "aiff": "PCM_16", "aif": "PCM_16"}
_FORMATS = {"aif": "AIFF", "opus": "OGG", "oga": "OGG"}
_CUT_CHUNK = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_VORBIS_PAGE = 255 * 1024
"""Samples in the longest page: 255 packets of half a long block."""
_WRITTEN_AT_ONCE = 1 << 16
"""Samples; the Vorbis encoder crashes the process when it is given minutes at a time."""
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF, 0x7FFFFFFF)


@dataclass(frozen=True)
class AudioInfo:
    """What the header says. frames: samples per channel at `sample_rate` Hz; format: WAV, FLAC, ...

    path: for messages. part: where the sound lies when it is a part of a larger file.
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


@dataclass(frozen=True)
class SavedAudio:
    """What was written. peak: largest |sample|; clipped: the format could not hold it."""

    path: Path
    peak: float
    clipped: bool


AudioSource = str | os.PathLike[str] | FileSlice
"""A sound file, or a sound file inside another file."""


def read_info(path: AudioSource) -> AudioInfo:
    """Read the header.

    Raises:
        AudioError: the file is missing, unreadable, empty, cut off, or not sound.
    """
    part = path if isinstance(path, FileSlice) else None
    name = path.name if isinstance(path, FileSlice) else os.fspath(path)
    if _needs_av(name, part):
        with _readable(name, part) as file:
            return AudioInfo(name, *containers.read_header(name, file), part)
    try:
        with _readable(name, part) as file:
            info = soundfile.info(file, verbose=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(name, _reason(error)) from error
    cut = _CUT_CHUNK.search(info.extra_info)
    if cut and int(cut[1]) not in _UNKNOWN_LENGTHS and int(cut[1]) > int(cut[2]):
        raise AudioError(name, f"cut off: the header promises {cut[1]} bytes of sound, {cut[2]} are there")
    if info.frames <= 0:
        raise AudioError(name, "holds no sound")
    if info.format == "MP3" and _mp3_seeking(name, part) is mp3.Seeking.UNKNOWN_LENGTH:
        raise AudioError(name, "its length is unknown: variable bit rate without a header; convert it")
    return AudioInfo(name, info.samplerate, info.frames, info.channels, info.format, info.subtype, part)


def read_audio(
    path: AudioSource, start: int = 0, frames: int | None = None, *, info: AudioInfo | None = None
) -> tuple[Tensor, int]:
    """Read `frames` samples from `start`, both at the file's own rate, by seeking.

    Returns:
        audio (c n) float32 and the sample rate in Hz; n is less than `frames` only at the end of the file.

    Raises:
        AudioError: as read_info; or the file ends before its header says.
        ValueError: `start` lies outside the file.
    """
    info = info if info is not None else read_info(path)
    if not 0 <= start <= info.frames:
        raise ValueError(f"{info.path}: start {start} lies outside the file's {info.frames} samples")
    count = info.frames - start if frames is None else min(frames, info.frames - start)
    if _needs_av(info.path, info.part):
        with _readable(info.path, info.part) as file:
            samples = containers.read_samples(info.path, start, count, file)
    else:
        samples = _read_soundfile(info, start, count)
    if samples.shape[1] < count:
        found = start + samples.shape[1]
        raise AudioError(info.path, f"cut off: the header promises {info.frames} samples, {found} are there")
    if not np.isfinite(samples).all():
        raise AudioError(info.path, "holds values that are not numbers")
    return torch.from_numpy(samples), info.sample_rate


def save_audio(
    path: str | os.PathLike[str],
    audio: Tensor,
    sample_rate: int,
    *,
    subtype: str | None = None,
) -> SavedAudio:
    """Write audio (c n) at its true loudness; the format follows from the suffix.

    Integer and lossy formats cannot hold values beyond +-1: they are clipped, which is logged and
    returned, never hidden by normalisation. The file appears whole or not at all.

    Args:
        subtype: libsndfile's name, e.g. "PCM_24" or "FLOAT"; None: 16 bits for wav, flac and aiff.

    Raises:
        AudioError: the values are not numbers, or the format cannot be written.
        OSError: the disk is full, or the folder cannot be written.
    """
    target = Path(path)
    samples = audio.detach().to(device="cpu", dtype=torch.float32).numpy()
    if samples.ndim != 2:
        raise ValueError(f"audio must be (channels, length); found shape {tuple(audio.shape)}")
    if not np.isfinite(samples).all():
        raise AudioError(str(target), "not written: the audio holds values that are not numbers")
    peak = float(np.abs(samples).max(initial=0.0))
    suffix = target.suffix.lower().lstrip(".")
    subtype = subtype or DEFAULT_SUBTYPES.get(suffix)
    clipped = peak > 1.0 and subtype not in ("FLOAT", "DOUBLE")
    if clipped:
        _LOG.warning("%s: clipped, the peak is %.2f", target, peak)
        samples = np.clip(samples, -1.0, 1.0)
    with atomic_write(target) as temporary:
        _write(temporary, samples, sample_rate, suffix, subtype, target)
    return SavedAudio(target, peak, clipped)


def _write(
    temporary: Path, samples: np.ndarray, sample_rate: int, suffix: str, subtype: str | None, target: Path
) -> None:
    if suffix == "m4a":
        containers.write_samples(temporary, samples, sample_rate)
        return
    form = _FORMATS.get(suffix, suffix.upper())
    subtype = "OPUS" if suffix == "opus" and subtype is None else subtype
    data = _rounded(samples, subtype).T
    try:
        with soundfile.SoundFile(
            temporary, "w", sample_rate, data.shape[1], subtype=subtype, format=form
        ) as file:
            for start in range(0, len(data), _WRITTEN_AT_ONCE):
                file.write(data[start : start + _WRITTEN_AT_ONCE])
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        if "System error" in str(error):
            raise AudioError(
                str(target), "not written: the disk took only a part of it; is it full?"
            ) from error
        what = " ".join(filter(None, (form, subtype)))
        raise AudioError(str(target), f"cannot be written as {what} at {sample_rate} Hz ({error})") from error


def _rounded(samples: np.ndarray, subtype: str | None) -> np.ndarray:
    """To the nearest step for 16 bits; libsndfile would cut off, and scale by 32767 instead of 32768."""
    if subtype != "PCM_16":
        return samples
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)


def _read_soundfile(info: AudioInfo, start: int, count: int) -> np.ndarray:
    begin = _exact_position(info, start)
    try:
        with _readable(info.path, info.part) as source, soundfile.SoundFile(source) as file:
            file.seek(begin)
            samples = file.read(start - begin + count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(info.path, _reason(error)) from error
    return np.ascontiguousarray(samples[start - begin :].T)


def _exact_position(info: AudioInfo, start: int) -> int:
    """Where to begin decoding so that the sample at `start` comes out as in the whole file."""
    if info.subtype == "VORBIS":  # libsndfile lands beside the target when it lies in the last page
        return max(0, min(start, info.frames - _VORBIS_PAGE))
    if info.format == "MP3":
        exact = _mp3_seeking(info.path, info.part) is mp3.Seeking.EXACT
        return max(0, start - mp3.PREROLL) if exact else 0
    return start


def _mp3_seeking(path: str, part: FileSlice | None) -> mp3.Seeking:
    with _opened(path, part) as file:
        return mp3.seeking(file)


@contextmanager
def _readable(path: str, part: FileSlice | None) -> Iterator[str | BinaryIO]:
    """What decoders open: the path itself where there is one, which they read fastest."""
    if part is None:
        yield path
    else:
        with _opened(path, part) as file:
            yield file


@contextmanager
def _opened(path: str, part: FileSlice | None) -> Iterator[BinaryIO]:
    """Raises AudioError when the file cannot be opened."""
    try:
        file: BinaryIO = open(path, "rb") if part is None else part.open()  # noqa: SIM115
    except OSError as error:
        raise AudioError(path, error.strerror or str(error)) from error
    with file:
        yield file


def _needs_av(path: str, part: FileSlice | None) -> bool:
    """By content, so that a wrong suffix does no harm. Raises AudioError when the file cannot be read."""
    with _opened(path, part) as file:
        head = file.read(12)
    if not head:
        raise AudioError(path, "is empty (0 bytes)")
    return head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3"


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("Error : ")
    return "is not a sound file that can be read" if "not recognised" in text else f"damaged: {text}"
