"""Hostile and broken uploads, and the process that decodes them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stable_audio.audio.errors import DiskFullError, disk_is_full
from stable_audio.interface.service import decoder as decoder_module
from stable_audio.interface.service import decoding as decoding_module
from stable_audio.interface.service import uploads as uploads_module
from stable_audio.interface.service.decoder import SoundDecoder
from stable_audio.interface.service.decoding import DecodeRequest, decoded, limit_memory
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.uploads import _suffix


def sound(path: Path, *, seconds: float = 0.1, channels: int = 1, subtype: str = "PCM_16") -> Path:
    samples = 0.5 * np.sin(np.arange(round(seconds * 8000)) / 5)
    soundfile.write(path, np.repeat(samples[:, None], channels, 1), 8000, subtype=subtype)
    return path


def request(source: Path, *, seconds: float = 10.0) -> DecodeRequest:
    return DecodeRequest(str(source), str(source.with_name("decoded.wav")), seconds)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.wav", "FLOAT"), ("a.flac", "PCM_24")])
def test_samples_stay_as_they_are(tmp_path: Path, name: str, subtype: str) -> None:
    path = sound(tmp_path / name, channels=2, subtype=subtype)
    facts = decoded(request(path))
    assert (facts.seconds, facts.sample_rate, facts.channels) == (0.1, 8000, 2)
    expected = soundfile.read(path, dtype="float32")[0]
    assert (soundfile.read(tmp_path / "decoded.wav", dtype="float32")[0] == expected).all()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def huge(path: Path) -> None:
    """A header of two hours, and a tenth of a second behind it."""
    data = bytearray(path.read_bytes())
    size = 8000 * 2 * 7200
    data[4:8], data[40:44] = struct.pack("<I", size + 36), struct.pack("<I", size)
    path.write_bytes(data)


HOSTILE = {
    "text": lambda path: path.write_text("not a sound"),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(10_000)),
    "cut": cut,
    "huge": huge,
    "nine channels": lambda path: sound(path, channels=9),
    "too long": lambda path: sound(path, seconds=11),
    "no samples": lambda path: soundfile.write(path, np.zeros((0, 1)), 8000),
    "not numbers": lambda path: soundfile.write(path, np.full((100, 1), np.nan), 8000, subtype="FLOAT"),
    "riff bomb": lambda path: path.write_bytes(
        b"RIFF" + b"\xff" * 4 + b"WAVE" + b"fmt \x10\x00\x00\x00" * 1000
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_usable_sound_is_refused(tmp_path: Path, kind: str) -> None:
    path = sound(tmp_path / "a.wav")
    HOSTILE[kind](path)
    with pytest.raises((ValueError, OSError)):
        decoded(request(path))
    assert not (tmp_path / "decoded.wav").exists()


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.FLAC", "flac"),
        ("../../etc/passwd", "wav"),
        ("", "wav"),
        ("a.wav/../x", "wav"),
        ("a.mp3\x00.sh", "wav"),
    ],
)
def test_a_name_gives_a_known_suffix_and_nothing_else(name: str, suffix: str) -> None:
    assert _suffix(name) == suffix


def answer_slowly(connection: Any, level: int) -> None:
    """A decoder that a file keeps busy for ever."""
    connection.send(os.getpid())
    connection.recv()
    time.sleep(60)


def die(connection: Any, level: int) -> None:
    """A decoder that a file ends."""
    connection.send(os.getpid())
    connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def greedy(connection: Any, level: int) -> None:
    """A decoder that a file makes take memory without end."""
    limit_memory(64 << 20)
    connection.send(os.getpid())
    connection.recv()
    try:
        bytearray(1 << 30)
    except MemoryError:
        connection.send(ValueError("takes too much memory"))


@pytest.mark.parametrize(
    ("behaviour", "seconds", "told"),
    [
        (answer_slowly, 0.2, "within 0.2 s"),
        (die, 60, "ended by SIGKILL"),
        (greedy, 60, "too much memory"),
    ],
)
def test_a_file_that_harms_its_decoder_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, behaviour: Any, seconds: float, told: str
) -> None:
    async def test() -> None:
        decoder = SoundDecoder(seconds)
        monkeypatch.setattr(decoder_module, "run_decoder", behaviour)
        monkeypatch.setattr(decoder_module.multiprocessing, "get_context", forked)
        try:
            with pytest.raises(ServiceError, match=told) as refused:
                await decoder.decode(request(sound(tmp_path / "a.wav")))
            assert refused.value.status == 422
            monkeypatch.setattr(decoder_module, "run_decoder", decode_in_process)
            decoder.stop()
            facts = await decoder.decode(request(sound(tmp_path / "b.wav")))
            assert facts.seconds == 0.1
        finally:
            decoder.stop()

    asyncio.run(test())


def decode_in_process(connection: Any, level: int) -> None:
    connection.send(os.getpid())
    connection.send(decoded(connection.recv()))


def forked(method: str) -> Any:
    """A process at once: the behaviours of this file need nothing that a fork would break."""
    import multiprocessing.context

    return multiprocessing.context.ForkContext()


def test_a_full_disk_is_no_fault_of_the_client() -> None:
    for error in (OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("disk is full")):
        with pytest.raises(ServiceError, match="cannot be stored") as raised, uploads_module._storing():
            raise error
        assert (raised.value.status, raised.value.retry_after) == (503, 60)


def test_a_full_disk_while_decoding_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*values: Any, **keywords: Any) -> None:
        raise DiskFullError("decoded.wav", "not written")

    monkeypatch.setattr(decoding_module, "save_audio", full)
    with pytest.raises(DiskFullError) as raised:
        decoded(request(sound(tmp_path / "a.wav")))
    assert disk_is_full(raised.value)
