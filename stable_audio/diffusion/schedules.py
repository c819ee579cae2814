"""Schedules: the levels that a sampler walks, from noise to data.

Each function returns `steps + 1` levels of its own space as a float64 tensor on the CPU, the last one 0.
Levels are few and samplers read them as plain numbers, so precision costs nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.spaces import FLOW, VE, VP, Space


def polyexponential(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Sigmas whose logarithm falls along a polynomial ramp of exponent rho, then 0 (rho 1: geometric)."""
    ramp = torch.linspace(1, 0, steps, dtype=torch.float64) ** rho
    sigmas = torch.exp(ramp * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min))
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def karras(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Sigmas of Karras et al. 2022, equation 5, then 0; the paper uses rho 7."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def linear(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """t in equal steps from sigma_max (at most 1) to 0; sigma_min and rho have no meaning here."""
    return torch.linspace(min(sigma_max, 1.0), 0, steps + 1, dtype=torch.float64)


def logsnr(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Flow times in equal steps of the log signal-to-noise ratio, from t = sigma_max (at most 1) to 0.

    The ratio ends at 2 and starts at that of sigma_max, or at -6 from pure noise, whose own is infinite.
    The ends are then put at sigma_max and 0 exactly. sigma_min and rho have no meaning here.
    """
    start = min(sigma_max, 1.0)
    first = math.log((1 - start) / start + 1e-6) if start < 1 else -6.0
    t = torch.sigmoid(-torch.linspace(first, 2.0, steps + 1, dtype=torch.float64))
    t[0], t[-1] = start, 0.0
    return t


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule and the space of its levels; None: the bounded space of the sampler (VP for VE samplers)."""

    fn: Callable[..., Tensor]
    space: Space | None


SCHEDULES: dict[str, ScheduleSpec] = {
    "polyexponential": ScheduleSpec(polyexponential, VE),
    "karras": ScheduleSpec(karras, VE),
    "linear": ScheduleSpec(linear, None),
    "logsnr": ScheduleSpec(logsnr, FLOW),
}


def build_schedule(
    name: str,
    steps: int,
    *,
    space: Space,
    sigma_min: float = 0.01,
    sigma_max: float = 100.0,
    rho: float = 1.0,
    shift: DistributionShift | None = None,
    length: int | None = None,
) -> Tensor:
    """The levels of `space` that a sampler walks: (steps + 1,) float64, falling.

    Args:
        name: key of SCHEDULES.
        sigma_max: first level, in the units of the schedule: sigma for polyexponential and karras; t
            for linear and logsnr, where anything above 1 means 1.
        shift, length: distribution shift for latents of `length` frames; bounded schedules only.

    Raises:
        ValueError: unknown name, bad numbers, or a schedule that starts at a level that `space` lacks.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule '{name}'; known: {', '.join(SCHEDULES)}")
    spec = SCHEDULES[name]
    own = spec.space or (space if math.isfinite(space.max_level) else VP)
    _check(steps, own, sigma_min, sigma_max, rho)
    levels = spec.fn(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    if shift is not None:
        levels = _shifted(levels, shift, length, name, own)
    return levels if own is space else _converted(levels, own, space, name)


def _check(steps: int, space: Space, sigma_min: float, sigma_max: float, rho: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, found {steps}")
    if sigma_max <= 0 or rho <= 0:
        raise ValueError(f"sigma_max and rho must be above 0, found sigma_max {sigma_max}, rho {rho}")
    if space is VE and not 0 < sigma_min <= sigma_max:
        raise ValueError(
            f"0 < sigma_min <= sigma_max is needed, found sigma_min {sigma_min}, sigma_max {sigma_max}"
        )


def _shifted(levels: Tensor, shift: DistributionShift, length: int | None, name: str, space: Space) -> Tensor:
    if length is None:
        raise ValueError("a distribution shift needs the length of the latents")
    if space is VE:
        raise ValueError(f"schedule '{name}' counts sigma, which has no distribution shift; use 'linear'")
    return shift(levels, length)


def _converted(levels: Tensor, own: Space, space: Space, name: str) -> Tensor:
    converted = [own.convert(level, space) for level in levels.tolist()]
    if not math.isfinite(converted[0]):
        raise ValueError(
            f"schedule '{name}' starts at pure noise, which the sampler counts as infinity; "
            "give a sigma_max below 1, for example 0.99"
        )
    return torch.tensor(converted, dtype=torch.float64)
