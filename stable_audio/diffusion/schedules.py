"""Schedules: the levels that a sampler walks, from noise to data.

The levels of a name are those of its function in `ramps`, brought into the space of the sampler. A shift by
the length of each item makes a row of them for each item.
Levels are few and samplers read them as plain numbers, so precision costs nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.processes import Process
from stable_audio.diffusion.ramps import (
    cosine,
    exponential,
    karras,
    leading,
    linear,
    linspace,
    logsnr,
    polyexponential,
    shifted,
    trailing,
)
from stable_audio.diffusion.shift import TimeShift
from stable_audio.diffusion.spaces import FLOW, VE, VP, Space
from stable_audio.options import Flat, takes_keywords

NOISE_SIGMA = 4096.0
"""Least sigma that stands for a step of pure noise in VE samplers: alpha^2 = 2^-24."""


SAME = 1e-9
"""Levels whose relative difference is smaller count as equal."""


@dataclass(frozen=True)
class StepScheduleSpec:
    """A selection of steps of a discrete process.

    Attributes:
        fn: (steps, N) -> the numbers of the steps, falling.
        to_first: end at the level of step 0, as published for DDIM, instead of at the data.
    """

    fn: Callable[[int, int], Tensor]
    to_first: bool = False


STEP_SCHEDULES: dict[str, StepScheduleSpec] = {
    "ddim": StepScheduleSpec(leading, to_first=True),
    "leading": StepScheduleSpec(leading),
    "trailing": StepScheduleSpec(trailing),
    "linspace": StepScheduleSpec(linspace),
}
"""For processes that count steps, such as `ddpm`."""


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule and the space of its levels; None: the bounded space of the sampler (VP for VE samplers).

    Attributes:
        keeps_start: whether a shift leaves the first level where it is.
    """

    fn: Callable[..., Tensor]
    space: Space | None
    keeps_start: bool = False


SCHEDULES: dict[str, ScheduleSpec] = {
    "polyexponential": ScheduleSpec(polyexponential, VE),
    "karras": ScheduleSpec(karras, VE),
    "linear": ScheduleSpec(linear, None),
    "logsnr": ScheduleSpec(logsnr, FLOW),
    "shifted": ScheduleSpec(shifted, FLOW, keeps_start=True),
    "exponential": ScheduleSpec(exponential, VE),
    "cosine": ScheduleSpec(cosine, VP),
}


SIGMA_MIN, SIGMA_MAX, RHO = 0.01, 100.0, 1.0
"""Ends and curvature of a schedule unless something else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """The ends of a schedule, and its curvature.

    Attributes:
        sigma_min: last level above the data; None = 0.01.
        sigma_max: first level, in the units of the schedule: sigma for polyexponential, exponential and
            karras; t for the others, where anything above 1 means 1. Of N steps, only those below
            t = sigma_max are used. If it equals sigma_min, a single step leads to the data. None = 100.
        rho: exponent of the ramp of polyexponential and karras; None = 1.
    """

    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float | None = None

    @property
    def ends(self) -> tuple[float, float, float]:
        """(sigma_min, sigma_max, rho), with the usual values in place of None."""
        return (
            SIGMA_MIN if self.sigma_min is None else self.sigma_min,
            SIGMA_MAX if self.sigma_max is None else self.sigma_max,
            RHO if self.rho is None else self.rho,
        )


@takes_keywords
def build_schedule(
    name: str,
    steps: int,
    *,
    space: Space,
    ramp: Flat[Ramp] = Ramp(),
    shift: TimeShift | None = None,
    length: int | Sequence[int] | None = None,
    objective: Objective | None = None,
) -> Tensor:
    """The levels of `space` that a sampler walks: (steps + 1,) float64, falling; or a row of them per item.

    Args:
        name: key of SCHEDULES or, for a process of steps, of STEP_SCHEDULES.
        ramp: ends and curvature of the schedule; its fields are keywords as well.
        shift: distribution shift, on bounded schedules only.
        length: latent frames, on which the shift depends; one number for each item makes (items, steps + 1).
        objective: limits the schedule to the levels on which the backbone was trained.

    Raises:
        ValueError: unknown name, invalid numbers, or a schedule that starts at a level outside `space`.
    """
    check_schedule(name, objective.process if objective is not None else None, steps)
    low, high, rho = ramp.ends
    if name in STEP_SCHEDULES:
        assert objective is not None
        if shift is not None:
            raise ValueError(f"schedule '{name}' counts steps, which have no distribution shift")
        return _steps_of(objective.process, STEP_SCHEDULES[name], steps, high, space)
    spec = SCHEDULES[name]
    native = spec.space or (space if math.isfinite(space.max_level) else VP)
    _check(steps, native, low, high, rho)
    if objective is not None:
        low, high = _within(objective.ratios, native, low, high)
    levels = spec.fn(steps, sigma_min=low, sigma_max=high, rho=rho)
    if shift is not None:
        levels = _shifted(levels, shift, length, name, native)
        if spec.keeps_start:
            levels[..., 0] = min(high, 1.0)
            levels = levels.float().double()
    return levels if native is space else _converted(levels, native, space, name)


def distinct(levels: Tensor) -> Tensor:
    """Drop levels that are not below all earlier ones, so that the noise strictly falls.

    In rows of levels, whose number is that of all rows, such levels become the lowest of the earlier ones.
    """
    if levels.ndim == 2:
        return levels.cummin(1).values
    values = levels[:1].tolist()
    for level in levels[1:].tolist():
        if level < values[-1] * (1 - SAME):
            values.append(level)
    return torch.tensor(values, dtype=levels.dtype)


def check_schedule_name(name: str) -> None:
    """Raise ValueError unless some process has a schedule of this name."""
    choices = [*SCHEDULES, *STEP_SCHEDULES]
    if name not in choices:
        raise ValueError(f"unknown schedule '{name}'; known: {', '.join(choices)}")


def check_schedule(name: str, process: Process | None, steps: int = 1) -> None:
    """Raise ValueError unless `process` has a schedule of this name with `steps` steps."""
    check_schedule_name(name)
    if name in STEP_SCHEDULES and (process is None or process.steps is None):
        raise ValueError(
            f"schedule '{name}' counts the steps of a 'ddpm' process, but this process is continuous; "
            f"use one of {', '.join(SCHEDULES)}"
        )
    if name in STEP_SCHEDULES and process is not None and process.steps and steps > process.steps:
        raise ValueError(f"the process has {process.steps} steps: give 1 to {process.steps}, found {steps}")


def _steps_of(process: Process, spec: StepScheduleSpec, steps: int, sigma_max: float, space: Space) -> Tensor:
    assert process.steps is not None
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    if sigma_max <= 0:
        raise ValueError(f"sigma_max must be above 0, found {sigma_max}")
    total = max(1, round(process.steps * min(sigma_max, 1.0)))
    times = spec.fn(min(steps, total), total) / (process.steps - 1)
    levels = [process.level(t) for t in times.tolist()]
    # The first level may be the lowest one of the process.
    levels.append(process.min_level if spec.to_first and levels[-1] > process.min_level else 0.0)
    levels_in_space = [process.space.convert(level, space) for level in levels]
    if math.isinf(levels_in_space[0]):
        next_level = process.level((process.steps - 2) / (process.steps - 1))
        levels_in_space[0] = max(NOISE_SIGMA, 4 * process.space.convert(next_level, space))
    return torch.tensor(levels_in_space, dtype=torch.float64)


def _within(
    ratios: tuple[float, float], space: Space, sigma_min: float, sigma_max: float
) -> tuple[float, float]:
    """The ends of a schedule, limited to the range between two ratios of noise to signal."""
    low, high = ratios
    if space is not VE:
        return sigma_min, sigma_max if math.isinf(high) else min(sigma_max, space.level(1.0, high))
    sigma_max = min(sigma_max, high)
    return min(max(sigma_min, low), sigma_max), sigma_max


def _check(steps: int, space: Space, low: float, high: float, rho: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    if high <= 0 or rho <= 0:
        raise ValueError(f"sigma_max and rho must be above 0, found sigma_max {high}, rho {rho}")
    if space is VE and not 0 < low <= high:
        raise ValueError(f"0 < sigma_min <= sigma_max is needed, found sigma_min {low}, sigma_max {high}")


def _shifted(
    levels: Tensor, shift: TimeShift, length: int | Sequence[int] | None, name: str, space: Space
) -> Tensor:
    if length is None:
        raise ValueError("a distribution shift needs the length of the latents")
    if space is VE:
        raise ValueError(f"schedule '{name}' counts sigma, which has no distribution shift; use 'linear'")
    return shift(levels, length if isinstance(length, int) else torch.tensor(list(length))[:, None])


def _converted(levels: Tensor, native: Space, space: Space, name: str) -> Tensor:
    converted = [native.convert(level, space) for level in levels.flatten().tolist()]
    if not math.isfinite(converted[0]):
        raise ValueError(
            f"schedule '{name}' starts at pure noise, which the sampler counts as infinity; "
            "give a sigma_max below 1, for example 0.99"
        )
    return torch.tensor(converted, dtype=torch.float64).view_as(levels)
