"""Sound files as recorders, pipes, joining and accidents leave them, made from whole ones."""

from __future__ import annotations

import struct
from pathlib import Path

import soundfile
from torch import Tensor

from stable_audio.audio.ogg_writing import checksum


def mp3(path: Path, audio: Tensor, rate: int, mode: str = "CONSTANT") -> bytes:
    """Write an mp3 with an Info or Xing header, and return its bytes."""
    soundfile.write(path, audio.numpy().T, rate, format="MP3", bitrate_mode=mode, compression_level=0.3)
    return path.read_bytes()


def info_tag(data: bytes) -> int:
    """Where the name of the header lies."""
    return max(data.find(b"Xing"), data.find(b"Info"))


def info_frames(data: bytes) -> int:
    """Number of frames by the header."""
    return int.from_bytes(data[info_tag(data) + 8 :][:4], "big")


def without_info(data: bytes) -> bytes:
    """The frames behind the header's own."""
    return data[data.index(data[:2], info_tag(data)) :]


def with_number(data: bytes, at: int, number: int, size: int = 4, order: str = "big") -> bytes:
    """`data` with a number written over the bytes from `at` on."""
    return data[:at] + number.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def flac_total(data: bytes, total: int) -> bytes:
    """A FLAC whose header tells of `total` samples."""
    known = int.from_bytes(data[21:26], "big")
    return with_number(data, 21, known >> 36 << 36 | total, 5)


def wav_size(data: bytes, size: int) -> bytes:
    """A wav whose header tells of `size` bytes of sound."""
    return with_number(data, data.index(b"data") + 4, size, 4, "little")


def ogg_pages(data: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    pages = []
    while data:
        segments = data[26]
        size = 27 + segments + sum(data[27 : 27 + segments])
        pages.append(data[:size])
        data = data[size:]
    return pages


def ogg_granule(page: bytes, granule: int) -> bytes:
    """A page that says that it ends at sample `granule`, with a right checksum."""
    page = page[:6] + struct.pack("<q", granule) + page[14:22] + bytes(4) + page[26:]
    return with_number(page, 22, checksum(page), 4, "little")


def ogg_number(page: bytes, number: int) -> bytes:
    """A page with another number, with a right checksum."""
    page = with_number(with_number(page, 18, number, 4, "little"), 22, 0, 4, "little")
    return with_number(page, 22, checksum(page), 4, "little")
