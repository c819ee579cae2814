"""Rows of numbers from the text of a `metrics.csv`, as fast as Python can, damaged lines left out."""

from __future__ import annotations

import csv

import numpy as np

_COMMA, _NEWLINE = 44, 10


def header_of(line: bytes) -> tuple[str, ...] | None:
    """Names of the columns; None if the line is no header of a `metrics.csv`."""
    try:
        names = tuple(next(csv.reader([line.decode("utf-8")]), ()))
    except (UnicodeDecodeError, csv.Error):
        return None
    return names if names[:1] == ("step",) and len(set(names)) == len(names) else None


def parsed(text: bytes, columns: int) -> np.ndarray:
    """Whole lines as (rows columns) float64, NaN where a cell is empty; the first column is the step.

    Lines with another number of cells, or with cells that are not numbers, are left out.
    """
    text = text.replace(b"\r\n", b"\n")
    if not text:
        return np.empty((0, columns))
    values = _all_at_once(text, columns)
    return _line_by_line(text, columns) if values is None else values


def _all_at_once(text: bytes, columns: int) -> np.ndarray | None:
    """The values of a text without a damaged line; None if there is one."""
    raw = np.frombuffer(text, np.uint8)
    ends = raw[np.flatnonzero((raw == _COMMA) | (raw == _NEWLINE))]
    if len(ends) % columns:
        return None
    newlines = ends.reshape(-1, columns) == _NEWLINE
    if not newlines[:, -1].all() or newlines[:, :-1].any():
        return None
    # Twice, since of three commas in a row the first replacement takes two.
    full = text.replace(b",,", b",nan,").replace(b",,", b",nan,").replace(b",\n", b",nan\n")
    cells = full[:-1].replace(b"\n", b",").split(b",")
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells)).reshape(-1, columns)
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
