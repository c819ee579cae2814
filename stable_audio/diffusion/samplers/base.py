"""The contract of all samplers, and shared formulas.

A sampler is a function `(denoise, x, schedule, *, noise, callback=None, **options) -> x`. It walks the
levels of `schedule` (in its own space, falling, on the CPU), knows neither conditioning nor guidance nor
objective, and makes every random draw through `noise`. Its keyword arguments are its options.

Levels are plain numbers in double precision; only x and what is computed from it are tensors (float32).
Samplers with `per_item` also walk a schedule with a row of levels per item (b, steps + 1): then a level is a
tensor (b,) of double precision on the CPU, and `weight` turns what is computed of levels into a factor of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from torch import Tensor

from stable_audio.diffusion.objectives import Scale
from stable_audio.diffusion.spaces import Level, Space
from stable_audio.nn.transfer import to_device
from stable_audio.options import keywords_of

SamplerCallback = Callable[[int, Tensor, Level, Tensor], None]
"""(step, x before the step, its level, denoised estimate there)."""

_NOT_OPTIONS = frozenset({"denoise", "x", "schedule", "noise", "callback"})


@dataclass(frozen=True)
class StepInfo:
    """The argument of the callback of `sample`.

    Attributes:
        i: index of the step.
        steps: number of steps; an estimate for adaptive samplers.
        x: the state before the step, in the scale of the sampler's space. (b c n)
        level: noise level of x in the sampler's space; as t and sigma, (b,) where items have levels of their
            own.
        t: the level as diffusion time, 0 = data, 1 = noise.
        sigma: noise scale in x.
        denoised: estimate of x0 at that level. (b c n)
    """

    i: int
    steps: int
    x: Tensor
    level: Level
    t: Level
    sigma: Level
    denoised: Tensor


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler and its default use.

    Attributes:
        fn: the sampler.
        space: the space of its levels.
        schedule: its default schedule on continuous processes, a key of SCHEDULES.
        step_schedule: its default schedule on processes of steps, a key of STEP_SCHEDULES.
        shifts: whether generation applies the model's distribution shift by default.
        one_by_one: whether items of one batch influence each other (shared adaptive steps).
        per_item: whether it walks schedules with a row of levels per item.
        evaluations: approximate network evaluations per step.
        about: one line of advice on when to choose it.
    """

    fn: Callable[..., Tensor]
    space: Space
    schedule: str
    about: str
    step_schedule: str = "leading"
    shifts: bool = False
    one_by_one: bool = False
    per_item: bool = False
    evaluations: int = 1

    @cached_property
    def options(self) -> dict[str, Any]:
        """Option -> default."""
        return {name: k.default for name, k in keywords_of(self.fn).items() if name not in _NOT_OPTIONS}


def intervals(schedule: Tensor) -> Iterator[tuple[int, float, float]]:
    """(i, level i, level i + 1) for every step of a schedule that all items share."""
    levels = schedule.tolist()
    return ((i, a, b) for i, (a, b) in enumerate(pairwise(levels)))


def item_intervals(schedule: Tensor) -> Iterator[tuple[int, Level, Level]]:
    """As `intervals`, also for a schedule with a row of levels per item (b, steps + 1)."""
    if schedule.ndim == 1:
        return intervals(schedule)
    return ((i, a, b) for i, (a, b) in enumerate(pairwise(schedule.unbind(1))))


def weight(value: Level, x: Tensor) -> Scale:
    """A factor of x (b c n): a number as it is, values (b,) of items in the rank, type and device of x."""
    if not isinstance(value, Tensor):
        return value
    return to_device(value, x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))


def log_ratio(sigma: float) -> float:
    """-log sigma, half the log signal-to-noise ratio: the variable in which DPM-Solvers take steps."""
    return -math.log(sigma)


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Split a step to sigma_next into (the lower sigma to step to, the deviation of the noise to add).

    The two variances add up to sigma_next^2; eta scales the noise (Song et al. 2020, DDIM, in VE form).
    """
    variance = sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
    up = min(sigma_next, eta * math.sqrt(max(variance, 0.0)))
    return math.sqrt(max(sigma_next**2 - up**2, 0.0)), up
