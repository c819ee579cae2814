"""Sounds and pictures of demos for a browser: the part of a file that it asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TYPES = {".wav": "audio/wav", ".png": "image/png", ".flac": "audio/flac", ".mp3": "audio/mpeg"}
"""Kinds of files that are handed out."""

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class FilePart:
    """A part of a file.

    Attributes:
        begin: its first byte.
        end: the byte after its last one.
    """

    begin: int
    end: int


def demo_file(demos: Path, address: str) -> Path | None:
    """The file at an address below a folder of demos; None if there is none, or it is none of a demo.

    Links that lead out of the folder are not followed.
    """
    path = demos / address
    try:
        inside = path.resolve(strict=True).is_relative_to(demos.resolve(strict=True))
    except (OSError, ValueError, RuntimeError):
        return None
    return path if inside and path.suffix in TYPES and path.is_file() else None


def part_of(size: int, asked: str | None) -> FilePart | None:
    """The part that the header `Range` asks for, all of the file without one; None if it has no such part.

    Of several ranges, and of units other than bytes, all is sent, which HTTP allows (RFC 9110, 14.2).
    """
    match = _RANGE.fullmatch(asked or "")
    if match is None or match.groups() == ("", ""):
        return FilePart(0, size)
    first, last = match.groups()
    if first == "":
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), min(size, int(last) + 1) if last else size
    return FilePart(begin, end) if begin < end else None
