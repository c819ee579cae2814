"""How much guidance acts at which t.

Wang et al. 2024, "Analysis of classifier-free guidance weight schedulers".
A weight w becomes 1 + (w - 1) share(t): share 0 is no guidance, 1 the whole weight. Shares by name have the
mean 1 over all t, as in the paper, so that a weight means about as much with any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from stable_audio.wording import hint

GuidanceShare = Callable[[Tensor], Tensor]
"""t (b,) -> share of the guidance there (b,)."""

SharePoints = Sequence[tuple[float, float]]
"""Points (t, share); shares between them are interpolated, and those beyond the ends stay."""


def linear(t: Tensor) -> Tensor:
    """2 (1 - t): nothing in pure noise, twice the weight at the data."""
    return 2 * (1 - t)


def cosine(t: Tensor) -> Tensor:
    """1 + cos(pi t): as linear, with level ends."""
    return 1 + torch.cos(math.pi * t)


GUIDANCE_SCHEDULES: dict[str, GuidanceShare] = {"linear": linear, "cosine": cosine}
"""Shares of guidance that grow from noise to data, which the paper found best, by name."""


def share_at(schedule: str | SharePoints, t: Tensor) -> Tensor:
    """The share of guidance at times t (b,), without waiting for t from the device."""
    if isinstance(schedule, str):
        return GUIDANCE_SCHEDULES[schedule](t)
    points = sorted(schedule)
    share = torch.full_like(t, points[0][1])
    for (start, before), (end, after) in pairwise(points):
        share = share + (after - before) * ((t - start) / (end - start)).clamp(0, 1)
    return share


def check_guidance_schedule(schedule: str | SharePoints) -> None:
    """Raise ValueError unless it is a known name, or points at different times with shares of 0 or above."""
    if isinstance(schedule, str):
        if schedule not in GUIDANCE_SCHEDULES:
            suggestion = hint(schedule, GUIDANCE_SCHEDULES) or ";"
            raise ValueError(
                f"unknown cfg_schedule '{schedule}'{suggestion} known: {', '.join(GUIDANCE_SCHEDULES)}, or "
                "points (t, share)"
            )
        return
    times = [t for t, _ in schedule]
    if not times or len(set(times)) < len(times) or not all(0 <= t <= 1 for t in times):
        raise ValueError(f"cfg_schedule needs points (t, share) at different t from 0 to 1, found {schedule}")
    if not all(0 <= share < math.inf for _, share in schedule):
        raise ValueError(f"cfg_schedule needs shares of at least 0, found {schedule}")
