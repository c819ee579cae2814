"""The (timbre, pitch) pairs that never occur in training, to test whether a model generalises to them."""

from __future__ import annotations

from collections.abc import Sequence

from stable_audio.data.synthetic.pitched import PITCHED

HELD_OUT_SHARE = 0.1

_GOLDEN = (5**0.5 - 1) / 2
"""The fractional parts of its multiples are spread evenly over [0, 1)."""


class HeldOut:
    """A share of all (timbre, pitch) pairs: equal steps of pitch, with another start for each timbre.

    Every timbre keeps at least one of `pitches`.
    """

    def __init__(self, *, share: float, pitches: Sequence[int]) -> None:
        self._pairs: set[tuple[str, int]] = set()
        for number, timbre in enumerate(PITCHED):
            offset = (number + 0.5) * _GOLDEN % 1.0
            omitted = [midi for midi in pitches if (midi * share + offset) % 1.0 < share]
            if len(omitted) < len(pitches):
                self._pairs |= {(timbre, midi) for midi in omitted}

    def __len__(self) -> int:
        return len(self._pairs)

    def holds(self, timbre: str, midi: int) -> bool:
        """Whether the train split omits this pair."""
        return (timbre, midi) in self._pairs
