"""Rows of numbers from the text of a `metrics.csv`, as fast as Python can, damaged lines left out."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np

_COMMA, _NEWLINE = 44, 10
_LONGEST_CELL = 32


def header_of(line: bytes) -> tuple[str, ...] | None:
    """Names of the columns; None if the line is no header of a `metrics.csv`."""
    try:
        names = tuple(next(csv.reader([line.decode("utf-8")]), ()))
    except (UnicodeDecodeError, csv.Error):
        return None
    return names if names[:1] == ("step",) and len(set(names)) == len(names) else None


def parsed(text: bytes, columns: int, keep: Sequence[int] | None = None) -> np.ndarray:
    """Whole lines as (rows cells) float64, NaN where a cell is empty; the first cell is the step.

    Lines with another number of cells, or with cells that are not numbers, are left out.

    Args:
        columns: cells of a line.
        keep: places of the cells to take, the first of which must be 0; None: all.
    """
    kept = list(range(columns)) if keep is None else list(keep)
    text = text.replace(b"\r\n", b"\n")
    if not text:
        return np.empty((0, len(kept)))
    values = None if b"\0" in text else _all_at_once(text, columns, kept)
    return _line_by_line(text, columns)[:, kept] if values is None else values


def _all_at_once(text: bytes, columns: int, keep: Sequence[int]) -> np.ndarray | None:
    """The values of a text without a damaged line; None if there is one among the cells to take."""
    raw = np.frombuffer(text, np.uint8)
    is_newline = raw == _NEWLINE
    ends = np.flatnonzero(is_newline | (raw == _COMMA))
    if len(ends) % columns or np.count_nonzero(is_newline) * columns != len(ends):
        return None
    if not is_newline[ends[columns - 1 :: columns]].all():
        return None
    begins = np.concatenate([[0], ends[:-1] + 1]).reshape(-1, columns)
    widths = ends.reshape(-1, columns) - begins
    padded = np.concatenate([raw, np.zeros(_LONGEST_CELL, np.uint8)])
    values = np.full((len(begins), len(keep)), np.nan)
    for place, column in enumerate(keep):
        filled = np.flatnonzero(widths[:, column])
        if len(filled) == 0:
            continue
        width = widths[filled, column]
        if width.max() > _LONGEST_CELL:
            return None
        offsets = np.arange(width.max())
        cells = padded[begins[filled, column, None] + offsets]
        cells[offsets >= width[:, None]] = 0  # numpy's texts end at a zero
        try:
            values[filled, place] = cells.view(f"S{len(offsets)}")[:, 0].astype(np.float64)
        except ValueError:
            return None
    return values if _are_steps(values[:, 0]).all() else None


def _line_by_line(text: bytes, columns: int) -> np.ndarray:
    rows = []
    for line in text.split(b"\n"):
        cells = line.split(b",")
        if len(cells) != columns or b"\0" in line:
            continue
        try:
            rows.append([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            continue
    values = np.array(rows, dtype=np.float64).reshape(-1, columns)
    return values[_are_steps(values[:, 0])]


def _are_steps(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.isfinite(values) & (values >= 0) & (values < 2**53) & (values == np.floor(values))
