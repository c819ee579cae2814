"""Check that the parts of an autoencoder fit together, and report the numbers that do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Disagreement(NamedTuple):
    """One measure of a part that differs from what the other parts need."""

    measure: str
    found: int
    expected: int

    def __str__(self) -> str:
        return f"{self.measure} {self.found}, expected {self.expected}"


class PartsDisagreeError(ValueError):
    """Parts that cannot work together.

    Attributes:
        disagreements: each measure that differs.
        inner_ratio: audio samples per frame of the pretransform around the encoder, 1 without one.
    """

    def __init__(self, whole: str, disagreements: list[Disagreement], *, inner_ratio: int) -> None:
        self.whole, self.disagreements, self.inner_ratio = whole, disagreements, inner_ratio
        super().__init__(f"the parts of the {whole}: {'; '.join(map(str, disagreements))}")


def check_parts(whole: str, measures: Mapping[str, tuple[int, int]], *, inner_ratio: int) -> None:
    """Raise PartsDisagreeError unless every measure is what it should be.

    Args:
        whole: name of the model that the parts belong to, and what they do not fit.
        measures: name -> (found, expected).
    """
    wrong = [Disagreement(name, *pair) for name, pair in measures.items() if pair[0] != pair[1]]
    if wrong:
        raise PartsDisagreeError(whole, wrong, inner_ratio=inner_ratio)
