"""Schedules that are written out: a list of levels in place of a name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.schedules import SAME
from stable_audio.diffusion.spaces import Space


def check_list(levels: Sequence[float]) -> None:
    """Raise ValueError unless the levels fall from above 0 to 0."""
    falls = all(a > b for a, b in itertools.pairwise(levels))
    if len(levels) < 2 or not falls or levels[-1] != 0 or not all(map(math.isfinite, levels)):
        found = ", ".join(f"{level:g}" for level in levels) or "nothing"
        raise ValueError(f"a schedule as a list must fall to 0, for example 1, 0.6, 0.2, 0; found {found}")


def level_list(
    levels: Sequence[float], *, space: Space, objective: Objective, sigma_max: float | None = None
) -> Tensor:
    """The levels (n,) float64 that a sampler of `space` walks.

    Args:
        levels: from noise to 0, in the units of the space: sigma for VE samplers, t for the others.
        objective: limits the levels to those on which the backbone was trained.
        sigma_max: where to begin, for example at the level of an init audio; higher levels are left out.

    Raises:
        ValueError: they do not fall to 0, or begin at more noise than the space or the backbone has.
    """
    check_list(levels)
    if sigma_max is not None and sigma_max < levels[0]:
        levels = [sigma_max, *(level for level in levels if level < sigma_max)]
    if levels[0] > space.max_level:
        raise ValueError(
            f"a schedule for samplers of the space {space.name} begins at most at {space.max_level:g}, "
            f"found {levels[0]:g}"
        )
    most = objective.ratios[1]
    alpha, sigma = space.path(levels[0])
    if math.isfinite(most) and sigma > most * alpha * (1 + SAME):
        raise ValueError(
            f"the schedule begins at {levels[0]:g}, but the model was trained up to "
            f"{space.level(1.0, most):.6g}; begin there"
        )
    return torch.tensor(list(levels), dtype=torch.float64)
