"""Settings of the average of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from stable_audio.ranges import Positive, check_ranges


@dataclass(frozen=True, kw_only=True)
class AveragingRule:
    """How weights are averaged: average = decay * average + (1 - decay) * weights at every step.

    Attributes:
        beta: maximum decay.
        power: exponent of the decay: 1 - (1 + (step - update_after_step - 1) / inv_gamma)^-power.
        inv_gamma: time constant of the decay, in steps.
        min_value: minimum decay once averaging has begun.
        update_after_step: up to this step the average is a copy of the weights.
        update_every: average at every such step only.
        device: where the average is: cpu in the memory of the host, where the weights are for as long as a
            demo uses their average; null beside the weights.

    Raises:
        ValueError: a setting out of its range.
    """

    beta: Annotated[float, Ge(0), Lt(1)] = 0.9999
    power: Annotated[float, Gt(0)] = 0.75
    inv_gamma: Annotated[float, Gt(0)] = 1.0
    min_value: Annotated[float, Ge(0), Lt(1)] = 0.0
    update_after_step: Annotated[int, Ge(0)] = 1
    update_every: Positive = 1
    device: Literal["cpu"] | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.device not in (None, "cpu"):
            raise ValueError(f"device must be 'cpu' or None, beside the weights, found {self.device!r}")
        if self.min_value > self.beta:
            raise ValueError(f"min_value must be from 0 to beta, {self.beta}, found {self.min_value}")
