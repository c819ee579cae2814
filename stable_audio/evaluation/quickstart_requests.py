"""What is asked of a quickstart model."""

from __future__ import annotations

from dataclasses import dataclass

from stable_audio.wording import flag_of

BASELINE_STEP = 3
"""Chance shows in a part of the requests; they are mixed, so that each part has all sorts."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The number of requests to a model, and the settings of generation.

    Attributes:
        repeats: clips per sound and pitch. The baselines answer every BASELINE_STEP-th request.
        seed: seed of the first clip.
        steps: sampling steps.
        cfg_scale: guidance weight.
        sampler: key of SAMPLERS; None takes that of the objective.
        batch_size: clips per batch.
    """

    repeats: int = 1
    seed: int = 0
    steps: int = 24
    cfg_scale: float = 1.5
    sampler: str | None = None
    batch_size: int = 42

    def __post_init__(self) -> None:
        for name in ("repeats", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{flag_of(name)} must be at least 1, found {getattr(self, name)}")
