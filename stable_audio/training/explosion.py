"""Tells a loss that explodes from one that is merely high, before it spoils the weights."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

FACTOR = 1000.0
"""How many times the loss of the untrained network is too much."""
FIRST = 10
"""Steps that say what the untrained network's loss is."""
UNKNOWN = 1e4
"""What it is taken for until then: a silent decoder can make a spectral loss as large."""


class Explosion:
    """Judges the losses of one network, step by step.

    The measure is the median of the first ten, at least 1: it is what the untrained network had, so that
    a loss a thousand times as large is no spike that training recovers from.
    """

    def __init__(self) -> None:
        self._first: list[float] = []

    @property
    def usual(self) -> float:
        """What losses are compared with."""
        return max(1.0, median(self._first)) if len(self._first) == FIRST else UNKNOWN

    def exceeded(self, loss: float) -> float | None:
        """The limit, a thousand times the measure, if |loss| is beyond it; else the loss is taken in."""
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
    """What is wrong, in words."""
    return f"loss is {loss:.3g}, beyond the {limit:.3g} from which on it counts as exploded,"
