"""Detect a loss that explodes, before it destroys the weights."""

from __future__ import annotations

import math
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
    network, so training does not recover from a loss that is a thousand times as large. Bad ones among them
    are left out, but counted, so that all processes know their limits from the same step on.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self._seen = 0

    @property
    def usual(self) -> float:
        """The loss that others are compared with."""
        return max(1.0, median(self._first)) if self._seen == FIRST and self._first else UNKNOWN

    @property
    def limit(self) -> float | None:
        """The largest loss that has not exploded; None while the usual loss is not known."""
        return FACTOR * self.usual if self._seen == FIRST else None

    def exceeded(self, loss: float) -> float | None:
        """The limit, if |loss| exceeds it or is not finite; else None, and it may be one of the first."""
        limit = FACTOR * self.usual
        bad = not abs(loss) <= limit
        if self._seen < FIRST:
            self._seen += 1
            if not bad:
                self._first.append(abs(loss))
        return limit if bad else None

    def reason(self, loss: float) -> str:
        """Why a loss is bad, in words, or ""; it may be one of the first.

        Args:
            loss: its absolute value.
        """
        limit = self.exceeded(loss)
        if limit is None:
            return ""
        return exploded(loss, limit) if math.isfinite(loss) else "loss is not finite"

    def state_dict(self) -> dict[str, Any]:
        return {"first": list(self._first), "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first = list(state["first"])
        self._seen = state.get("seen", len(self._first))  # states of earlier versions do not have it


def exploded(loss: float, limit: float) -> str:
    """The reason for an error message, in words."""
    return f"loss has exploded: it is {loss:.3g}, above the limit of {limit:.3g},"
