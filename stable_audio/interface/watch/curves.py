"""Curves of a run as a bounded number of means, however many steps it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stable_audio.training.record.curves import LARGEST

BINS = 512
"""Means per curve."""


class Curves:
    """Mean, least and greatest value of each column in equal ranges of steps, which double as steps grow.

    Attributes:
        columns: names of the columns.
        width: steps in a range.

    Args:
        columns: names of the columns.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.width = 1
        shape = (BINS, len(self.columns))
        self._counts, self._sums, self._steps = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self._low, self._high = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Add rows.

        Args:
            steps: (n,) whole numbers from 0, in any order.
            values: (n columns); what is not finite, or too large to be added up, counts as not measured.
        """
        if len(steps) == 0:
            return
        self._widen(int(steps.max()))
        if (np.diff(steps) < 0).any():
            order = np.argsort(steps, kind="stable")
            steps, values = steps[order], values[order]
        places = steps // self.width
        begins = np.flatnonzero(np.diff(places, prepend=-1))
        bins = places[begins]
        measured = np.abs(values) < LARGEST  # False for NaN
        known = np.where(measured, values, 0.0)
        self._counts[bins] += np.add.reduceat(measured.astype(np.float64), begins, axis=0)
        self._sums[bins] += np.add.reduceat(known, begins, axis=0)
        self._steps[bins] += np.add.reduceat(measured * steps[:, None].astype(np.float64), begins, axis=0)
        low = np.minimum.reduceat(np.where(measured, values, np.inf), begins, axis=0)
        high = np.maximum.reduceat(np.where(measured, values, -np.inf), begins, axis=0)
        self._low[bins] = np.minimum(self._low[bins], low)
        self._high[bins] = np.maximum(self._high[bins], high)

    def series(self, column: str) -> dict[str, list[Any]]:
        """Where the column was measured: steps, and mean, least and greatest value in the range of each."""
        place = self.columns.index(column)
        present = np.flatnonzero(self._counts[:, place])
        counts = self._counts[present, place]
        return {
            "steps": _rounded(self._steps[present, place] / counts),
            "mean": _rounded(self._sums[present, place] / counts),
            "low": _rounded(self._low[present, place]),
            "high": _rounded(self._high[present, place]),
        }

    def means(self, column: str, count: int) -> list[float]:
        """At most `count` means of a column over equal parts of the ranges in which it was measured."""
        if column not in self.columns:
            return []
        place = self.columns.index(column)
        present = np.flatnonzero(self._counts[:, place])
        if len(present) == 0:
            return []
        begins = np.unique(np.arange(count) * len(present) // count)
        sums, counts = (np.add.reduceat(t[present, place], begins) for t in (self._sums, self._counts))
        return _rounded(sums / counts)

    def least(self, column: str) -> float | None:
        """The least value of a column; None if it was never measured."""
        if column not in self.columns:
            return None
        low = float(self._low[:, self.columns.index(column)].min())
        return low if np.isfinite(low) else None

    def _widen(self, last: int) -> None:
        while last >= self.width * BINS:
            self._counts, self._sums, self._steps = (
                _halved(table, np.add, 0.0) for table in (self._counts, self._sums, self._steps)
            )
            self._low = _halved(self._low, np.minimum, np.inf)
            self._high = _halved(self._high, np.maximum, -np.inf)
            self.width *= 2


def _halved(table: np.ndarray, join: np.ufunc, empty: float) -> np.ndarray:
    halved = np.full_like(table, empty)
    halved[: BINS // 2] = join(table[0::2], table[1::2])
    return halved


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
