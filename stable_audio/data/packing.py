"""Distribute clips over rows of at most a given number of frames."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

OPEN_ROWS = 256
"""Rows kept open for a clip that fits: more of them waste less space, fewer change the order less."""


def pack_rows(lengths: Sequence[int], row_length: int, *, open_rows: int = OPEN_ROWS) -> list[list[int]]:
    """Distribute clips over rows; every clip is in exactly one.

    Each clip in turn joins the open row that it fills best, or opens a new one; when too many are open, the
    fullest is closed (best fit with bounded space: Csirik & Johnson, 2001). A clip longer than a
    row counts as a whole row, because it will be cropped to one.

    Args:
        lengths: frames of each clip, in the given order.

    Returns:
        rows of places in `lengths`, in the order in which they were closed.
    """
    rooms: list[tuple[int, int]] = []  # (frames left, row), sorted
    rows: dict[int, list[int]] = {}
    closed: list[list[int]] = []
    for place, length in enumerate(lengths):
        length = min(int(length), row_length)
        tightest = bisect.bisect_left(rooms, (length, -1))
        room, row = rooms.pop(tightest) if tightest < len(rooms) else (row_length, place)
        rows.setdefault(row, []).append(place)
        bisect.insort(rooms, (room - length, row))
        # A full row is the fullest of all, and nothing fits into it.
        if rooms[0][0] == 0 or len(rooms) > open_rows:
            closed.append(rows.pop(rooms.pop(0)[1]))
    return closed + [rows[row] for _, row in rooms]


def flatten_rows(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The places of all rows in one array, and the index at which each row starts, plus the end."""
    places = np.fromiter((p for row in rows for p in row), dtype=np.int64)
    return places, np.cumsum([0, *(len(row) for row in rows)])
