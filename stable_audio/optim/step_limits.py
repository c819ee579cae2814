"""What counts as a bad step of training, and how many of them a run takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from stable_audio.ranges import Positive, check_ranges


@dataclass(frozen=True, kw_only=True)
class StepLimits:
    """When a step is skipped, and when a run goes back to a checkpoint.

    A step is bad if its loss or gradient is not finite, or its gradient is a spike.

    Attributes:
        spike: a gradient whose norm is more than this many times the usual one, the median of the last 64, is
            a spike; null: none is.
        skips: bad steps that are skipped; with one more among the last `within` steps, the run goes back to
            its last checkpoint before the first of them.
        within: how many steps back bad ones count.
        returns: how often a run goes back; then it ends.

    Raises:
        ValueError: a setting out of its range.
    """

    spike: Annotated[float, Gt(1)] | None = 1000.0
    skips: Annotated[int, Ge(0)] = 5
    within: Positive = 100
    returns: Annotated[int, Ge(0)] = 3

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.spike is not None and not self.spike > 1:
            raise ValueError(f"spike must be above 1, or None, found {self.spike}")
        if self.skips > self.within:
            raise ValueError(
                f"skips must be at most within ({self.within}), else the run never goes back; found "
                f"{self.skips}"
            )
