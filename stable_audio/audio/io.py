"""The only reader and writer of sound files.

soundfile reads wav, flac, mp3, ogg, opus and aiff; PyAV (extra `[av]`) reads m4a and other containers.
Only the requested part of a file is decoded. Samples are float32 in [-1, 1] by convention; nothing is
normalised, neither on reading nor on writing.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from stable_audio.audio import channel_order, containers, ogg_writing
from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.comments import IN_CHUNKS, add_chunk
from stable_audio.audio.errors import AudioError, DiskFullError
from stable_audio.audio.opening import system_name
from stable_audio.audio.reader import AudioInfo, AudioSource, Sound, open_sound

__all__ = [
    "AUDIO_EXTENSIONS",
    "AudioInfo",
    "AudioSource",
    "SavedAudio",
    "Sound",
    "check_format",
    "check_subtype",
    "open_sound",
    "read_audio",
    "read_info",
    "save_audio",
]

_LOG = logging.getLogger(__name__)

AUDIO_EXTENSIONS = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".aif", ".aiff", ".aifc", ".opus", ".m4a"}
)

DEFAULT_SUBTYPES = {"wav": "PCM_16", "flac": "PCM_16", "aiff": "PCM_16", "aif": "PCM_16"}
SHORT_SUBTYPES = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT"}
"""Short names of sample formats."""

_FORMATS = {"aif": "AIFF", "opus": "OGG", "oga": "OGG"}
_WRITTEN_AT_ONCE = 1 << 16
"""Samples per write; the Vorbis encoder crashes the process when it receives minutes at once."""


@dataclass(frozen=True)
class SavedAudio:
    """Result of writing a file.

    Attributes:
        peak: largest absolute sample that was to be written.
        clipped: whether samples were clipped, because the format could not hold them.
    """

    path: Path
    peak: float
    clipped: bool


def read_info(path: AudioSource) -> AudioInfo:
    """Length, rate, channels and format of a file; frames are counted where the header is wrong.

    Raises:
        AudioError: the file is missing, unreadable, empty, cut off, or not sound.
    """
    with open_sound(path) as sound:
        return sound.info


def read_audio(
    path: AudioSource, start: int = 0, frames: int | None = None, *, info: AudioInfo | None = None
) -> tuple[Tensor, int]:
    """Read `frames` samples from `start`, both at the file's own rate, by seeking.

    Args:
        info: properties from `read_info`, which then name the file instead of `path`. To read several
            parts of a file, use `open_sound`, which is faster.

    Returns:
        audio (c n) float32 and the sample rate in Hz; n is less than `frames` only at the end of the file.

    Raises:
        AudioError: as read_info; or the file ends before its header says.
        ValueError: `start` lies outside the file.
    """
    with open_sound(path if info is None else info.source) as sound:
        return sound.read(start, frames), sound.info.sample_rate


def save_audio(
    path: str | os.PathLike[str],
    audio: Tensor,
    sample_rate: int,
    *,
    subtype: str | None = None,
    comment: str | None = None,
) -> SavedAudio:
    """Write audio (c n) at its true loudness; the format follows from the suffix.

    Integer and lossy formats cannot hold values beyond +-1: they are clipped, which is logged and
    reported in the result, never hidden by normalisation. The file appears whole or not at all.

    Args:
        subtype: a short name (16, 24, 32, float) or libsndfile's, e.g. "PCM_24"; None: 16 bits for wav, flac
            and aiff.
        comment: text in ASCII for the tags of the file; see `stable_audio.audio.comments`.

    Raises:
        AudioError: a value is not finite, or the format cannot be written.
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
    subtype = _subtype(subtype) or DEFAULT_SUBTYPES.get(suffix)
    clipped = peak > 1.0 and subtype not in ("FLOAT", "DOUBLE")
    if clipped:
        _LOG.warning("%s: clipped, the peak is %.2f", target, peak)
        samples = np.clip(samples, -1.0, 1.0)
    with atomic_write(target) as temporary:
        _write(temporary, samples, sample_rate, suffix, subtype, target, comment)
        if comment is not None and suffix in IN_CHUNKS and not add_chunk(temporary, comment):
            _LOG.warning("%s: the file is too large for a comment", target)
    return SavedAudio(target, peak, clipped)


def check_format(format: str) -> None:
    """Raise ValueError if no file can be written with the suffix `format`."""
    container = _FORMATS.get(format, format.upper())
    if format != "m4a" and container not in soundfile.available_formats():
        known = ", ".join(sorted(suffix.lstrip(".") for suffix in AUDIO_EXTENSIONS))
        raise ValueError(f"format '{format}' is unknown; usual ones are {known}")


def check_subtype(format: str, subtype: str | None) -> None:
    """Raise ValueError if files with the suffix `format` have no such sample format; see `save_audio`."""
    if subtype is None:
        return
    container = _FORMATS.get(format, format.upper())
    known = [] if format == "m4a" else list(soundfile.available_subtypes(container))
    if format == "opus":
        known = ["OPUS"]
    if _subtype(subtype) not in known:
        short = {name: text for text, name in SHORT_SUBTYPES.items()}
        allowed = ", ".join(short.get(name, name) for name in known)
        raise ValueError(
            f"subtype '{subtype}' is no sample format of {format}; "
            + (f"allowed: {allowed}" if allowed else "it has a single one, so leave it out")
        )


def _subtype(subtype: str | None) -> str | None:
    """libsndfile's name of a sample format."""
    return None if subtype is None else SHORT_SUBTYPES.get(subtype.lower(), subtype.upper())


def _write(
    temporary: Path,
    samples: np.ndarray,
    sample_rate: int,
    suffix: str,
    subtype: str | None,
    target: Path,
    comment: str | None,
) -> None:
    if suffix == "m4a":
        containers.write_samples(temporary, samples, sample_rate, comment=comment)
        return
    container = _FORMATS.get(suffix, suffix.upper())
    subtype = "OPUS" if suffix == "opus" and subtype is None else subtype
    codec = "VORBIS" if container == "OGG" and subtype is None else subtype or ""
    # Only Ogg has an order of channels of its own.
    order = channel_order.from_standard(codec, len(samples)) if container == "OGG" else None
    data = _rounded(samples if order is None else samples[order], subtype).T
    try:
        with soundfile.SoundFile(
            system_name(temporary), "w", sample_rate, data.shape[1], subtype=subtype, format=container
        ) as file:
            if comment is not None and suffix not in IN_CHUNKS:
                file.comment = comment
            for start in range(0, len(data), _WRITTEN_AT_ONCE):
                file.write(data[start : start + _WRITTEN_AT_ONCE])
        if codec == "VORBIS":
            ogg_writing.split_single_page(temporary)
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        if "System error" in str(error):
            raise DiskFullError(
                str(target), "not written: the disk took only a part of it; is it full?"
            ) from error
        encoding = " ".join(filter(None, (container, subtype)))
        raise AudioError(
            str(target), f"cannot be written as {encoding} at {sample_rate} Hz ({error})"
        ) from error


def _rounded(samples: np.ndarray, subtype: str | None) -> np.ndarray:
    """Round to the nearest 16-bit step; libsndfile would truncate, and scale by 32767 instead of 32768."""
    if subtype != "PCM_16":
        return samples
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
