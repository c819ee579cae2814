"""The process that decodes uploads: what is wrong with a file can end it, but not the service."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from stable_audio.audio.errors import DiskFullError, disk_is_full
from stable_audio.audio.io import open_sound, save_audio
from stable_audio.inference.memory.errors import first_line
from stable_audio.inference.rendering.recipe import file_digest

MEMORY = 2 << 30
"""Bytes that decoding may take beyond what the process has when it starts."""

MAX_CHANNELS = 8


@dataclass(frozen=True)
class DecodeRequest:
    """A file to decode.

    Attributes:
        source: the file as it came.
        target: the file to write, .wav.
        seconds: greatest length.
    """

    source: str
    target: str
    seconds: float


@dataclass(frozen=True)
class DecodedSound:
    """A sound as it was written in float32, at its own rate.

    Attributes:
        digest: of the file as it came.
        seconds: length.
        sample_rate: in Hz.
        channels: number of channels.
    """

    digest: str
    seconds: float
    sample_rate: int
    channels: int


def run_decoder(connection: Connection, level: int) -> None:
    """Answer each `DecodeRequest` with a `DecodedSound` or a ValueError, until the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=level, format="%(levelname)s uploads: %(message)s")
    limit_memory(MEMORY)
    with contextlib.suppress(EOFError, OSError):
        connection.send(os.getpid())
        while True:
            request = connection.recv()
            try:
                connection.send(decoded(request))
            except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
                first = first_line(error)
                # Where files lie on this machine is not for clients.
                told = first.replace(request.source, "the file").replace(request.target, "the file")
                full = disk_is_full(error)
                connection.send(DiskFullError("the sound", told) if full else ValueError(told))


def decoded(request: DecodeRequest) -> DecodedSound:
    """Decode a file.

    Raises:
        ValueError: it is no sound, or one that is too long or has too many channels.
    """
    with open_sound(request.source) as sound:
        info = sound.info
        if info.channels > MAX_CHANNELS:
            raise ValueError(f"has {info.channels} channels; at most {MAX_CHANNELS}")
        if info.seconds > request.seconds:
            raise ValueError(f"is {info.seconds:.1f} s long; at most {request.seconds:g} s")
        audio = sound.read(0, None)
    if not audio.shape[-1]:
        raise ValueError("holds no samples")
    save_audio(Path(request.target), audio, info.sample_rate, subtype="float")
    return DecodedSound(
        file_digest(request.source), audio.shape[-1] / info.sample_rate, info.sample_rate, audio.shape[0]
    )


def limit_memory(beyond: int) -> None:
    """Limit the memory of this process to what it has now and `beyond` bytes; no core is dumped."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError, ValueError, IndexError):
        return  # a system without such limits: the time limit remains
    size = pages * resource.getpagesize() + beyond
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
