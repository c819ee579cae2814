"""Write small PNG pictures without a drawing library (ISO/IEC 15948: palette, 8 bits)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_ANCHORS = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
"""Colours from dark to light, near matplotlib's magma."""


def heat_palette() -> bytes:
    """256 colours from dark to light, as red, green and blue."""
    places = np.linspace(0, len(_ANCHORS) - 1, 256)
    anchors = np.array(_ANCHORS, dtype=np.float64)
    channels = [np.interp(places, range(len(_ANCHORS)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8).tobytes()


def png_bytes(rows: np.ndarray, palette: bytes) -> bytes:
    """A PNG file of (height width) uint8 places in `palette`, the first row on top."""
    height, width = rows.shape
    # Every row starts with the number of its filter: 0, none.
    raw = np.zeros((height, width + 1), dtype=np.uint8)
    raw[:, 1:] = rows
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts: Sequence[tuple[bytes, bytes]] = (
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(raw.tobytes(), 6)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
