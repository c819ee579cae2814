"""A text within a sound file that says where the sound comes from: the comment among its tags.

libsndfile writes and reads comments of flac, mp3, ogg and opus of any length, but loses long ones of wav and
aiff. Their chunks are written here behind the sound, where readers skip what they do not know: LIST/INFO/ICMT
(RIFF), and APPL with the name of this package (AIFF), because libsndfile refuses files with a long ANNO.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import soundfile

from stable_audio.audio.opening import system_name
from stable_audio.audio.pyav import open_container, tags_of

_ORDERS = {b"RIFF": "<", b"FORM": ">"}
"""First bytes of a file of chunks -> byte order of its sizes."""

_APPLICATION = b"stoc" + b"\x0cstable_audio" + b"\0"
"""Start of an APPL chunk of a program: its name as a Pascal string of even length."""

_LARGEST = (1 << 32) - 1
IN_CHUNKS = ("wav", "aiff", "aif")
"""Suffixes of files whose comment `add_chunk` writes."""


def add_chunk(path: Path, text: str) -> bool:
    """Append a comment to a wav or aiff file; False if it would exceed the size that such a file can have.

    Args:
        text: in ASCII.
    """
    content = text.encode("ascii")
    with path.open("rb+") as file:
        order = _ORDERS[file.read(4)]
        size = file.seek(0, 2)
        chunk = _info(content) if order == "<" else _chunk(b"APPL", _APPLICATION + content, order)
        chunk = b"\0" * (size % 2) + chunk
        if size + len(chunk) - 8 > _LARGEST:
            return False
        file.write(chunk)
        file.seek(4)
        file.write(struct.pack(f"{order}I", size + len(chunk) - 8))
    return True


def read_comment(path: str | Path) -> str | None:
    """The comment of a sound file, character by character; None if it has none or cannot be read."""
    try:
        with open(path, "rb") as file:
            order = _ORDERS.get(file.read(4))
            if order is not None:
                return _text_of_chunks(file, order)
        with soundfile.SoundFile(system_name(path)) as sound:
            return sound.comment or None
    except (soundfile.LibsndfileError, RuntimeError, OSError, UnicodeDecodeError, struct.error):
        return _of_container(path)


def _of_container(path: str | Path) -> str | None:
    try:
        import av
    except ImportError:
        return None
    try:
        with open_container(str(path)) as container:
            return tags_of(container).get("comment")
    except (av.FFmpegError, OSError, ValueError):
        return None


def _info(content: bytes) -> bytes:
    return _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", content + b"\0", "<"), "<")


def _chunk(name: bytes, content: bytes, order: str) -> bytes:
    return name + struct.pack(f"{order}I", len(content)) + content + b"\0" * (len(content) % 2)


def _text_of_chunks(file: BinaryIO, order: str) -> str | None:
    end = file.seek(0, 2)
    for name, begin, size in _chunks(file, 12, end, order):
        file.seek(begin)
        if name == b"APPL" and file.read(len(_APPLICATION)) == _APPLICATION:
            return file.read(size - len(_APPLICATION)).decode("ascii")
        file.seek(begin)
        if name == b"LIST" and file.read(4) == b"INFO":
            for part, start, length in _chunks(file, begin + 4, begin + size, order):
                if part == b"ICMT":
                    file.seek(start)
                    return file.read(length).rstrip(b"\0").decode("ascii")
    return None


def _chunks(file: BinaryIO, position: int, end: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, size) of the chunks that lie whole between two places."""
    while position + 8 <= end:
        file.seek(position)
        name, size = struct.unpack(f"{order}4sI", file.read(8))
        if position + 8 + size > end:
            return
        yield name, position + 8, size
        position += 8 + size + size % 2
