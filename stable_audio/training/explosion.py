"""Detect a loss that explodes, before it destroys the weights."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

FACTOR = 1000.0
"""A loss of more than this many times the usual loss has exploded."""
FIRST = 10
"""Number of steps whose median loss is the usual loss, that of the untrained network."""
UNKNOWN = 1e4
"""The usual loss until then; a spectral loss can be this large while the decoder is silent."""


class Explosion:
    """Compares each loss of one network with its usual loss.

    The usual loss is the median of the first ten losses, but at least 1. These are losses of an untrained
    network, so training does not recover from a loss that is a thousand times as large.
    """

    def __init__(self) -> None:
        self._first: list[float] = []

    @property
    def usual(self) -> float:
        """The loss that others are compared with."""
        return max(1.0, median(self._first)) if len(self._first) == FIRST else UNKNOWN

    @property
    def limit(self) -> float | None:
        """The largest loss that has not exploded; None while the usual loss is not known."""
        return FACTOR * self.usual if len(self._first) == FIRST else None

    def exceeded(self, loss: float) -> float | None:
        """The limit, if |loss| exceeds it; otherwise None, and the loss may count for the usual loss."""
        if abs(loss) > FACTOR * self.usual:
            return FACTOR * self.usual
        if len(self._first) < FIRST:
            self._first.append(abs(loss))
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"first": list(self._first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first = list(state["first"])


def exploded(loss: float, limit: float) -> str:
    """The reason for an error message, in words."""
    return f"loss has exploded: it is {loss:.3g}, above the limit of {limit:.3g},"
