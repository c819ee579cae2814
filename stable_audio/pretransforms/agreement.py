"""Check that the parts of an autoencoder fit together, and report the numbers that do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Disagreement(NamedTuple):
    """A measure of a part that differs from the value that the other parts need."""

    measure: str
    actual: int
    expected: int

    def __str__(self) -> str:
        return f"{self.measure} {self.actual}, expected {self.expected}"


class PartsDisagreeError(ValueError):
    """Parts of a model do not fit together.

    Attributes:
        subject: the model, and what its parts do not fit.
        disagreements: all measures that differ.
        inner_ratio: audio samples per frame of the pretransform around the encoder, 1 without one.
    """

    def __init__(self, subject: str, disagreements: list[Disagreement], *, inner_ratio: int) -> None:
        self.subject, self.disagreements, self.inner_ratio = subject, disagreements, inner_ratio
        super().__init__(f"the parts of the {subject}: {'; '.join(map(str, disagreements))}")


def check_parts(subject: str, measures: Mapping[str, tuple[int, int]], *, inner_ratio: int) -> None:
    """Raise PartsDisagreeError unless every measure has its expected value.

    Args:
        subject: the model, and what its parts do not fit.
        measures: name -> (actual, expected).
        inner_ratio: audio samples per frame of the pretransform around the encoder, 1 without one.
    """
    wrong = [Disagreement(name, *pair) for name, pair in measures.items() if pair[0] != pair[1]]
    if wrong:
        raise PartsDisagreeError(subject, wrong, inner_ratio=inner_ratio)
