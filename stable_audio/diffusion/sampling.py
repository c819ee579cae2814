"""`sample`: pure noise -> x0, with any sampler, schedule and objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoiser, Predict
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.samplers import SAMPLERS, SamplerCallback, SamplerSpec, StepInfo
from stable_audio.diffusion.schedules import Ramp, build_schedule, distinct
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.spaces import VP
from stable_audio.options import Flat, takes_keywords
from stable_audio.wording import hint

Callback = Callable[[StepInfo], None]


@dataclass(frozen=True, kw_only=True)
class Solver(Ramp):
    """The sampler and its levels.

    Attributes:
        sampler: key of SAMPLERS; None takes the default of the model's objective.
        steps: number of steps; None takes the default of the model's objective.
        schedule: key of SCHEDULES or STEP_SCHEDULES; None = the sampler's default; or the levels, in the
            sampler's space, from noise to data.
        options: options of the sampler, such as {"eta": 0.5}.
    """

    sampler: str | None = None
    steps: int | None = None
    schedule: str | Tensor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def resolve_sampler(name: str, options: Mapping[str, Any]) -> SamplerSpec:
    """The sampler called `name`, its options checked.

    Raises:
        ValueError: unknown sampler or option; the message lists what is allowed.
    """
    if name not in SAMPLERS:
        suggestion = hint(name, SAMPLERS) or "."
        raise ValueError(f"unknown sampler '{name}'{suggestion} Known samplers: {', '.join(SAMPLERS)}")
    spec = SAMPLERS[name]
    unknown = [o for o in options if o not in spec.options]
    if unknown:
        choices = ", ".join(spec.options) or "none"
        raise ValueError(f"sampler '{name}' has no option {unknown}; its options: {choices}")
    return spec


def default_schedule(spec: SamplerSpec, objective: Objective) -> str:
    """The schedule that a sampler uses when none is named.

    On processes of steps it is a choice of steps; if the process ends in pure noise, sampling must start
    there.
    """
    if objective.process.steps is None:
        return spec.schedule
    return "trailing" if objective.process.ends_in_noise else spec.step_schedule


def starting_point(
    noise: Tensor, init: Tensor | None, spec: SamplerSpec, level: float, objective: Objective
) -> Tensor:
    """x at the first level: alpha init + sigma noise; without init, noise alone.

    In the bounded spaces noise keeps its unit variance even if the first level is below the top: x has
    about that variance at every level. On a process of steps, whose last step need not be pure noise,
    noise has unit variance in the space of the process, as published models expect.
    """
    alpha, sigma = spec.space.path(level)
    if init is not None:
        return alpha * init + sigma * noise
    if objective.process.steps is not None:
        return noise * spec.space.scale(level)
    return noise * sigma if math.isinf(spec.space.max_level) else noise


@takes_keywords
def sample(
    predict: Predict,
    start_noise: Tensor,
    *,
    objective: Objective,
    noise: Noise,
    solver: Flat[Solver] = Solver(),
    shift: DistributionShift | None = None,
    init: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Generate x0 from noise, in float32 whatever type `predict` computes in.

    Args:
        predict: (x (b c n), t (b,)) -> output of the backbone, guided or not.
        start_noise: (b c n), unit variance.
        objective: objective that defines what `predict` returns.
        noise: source of the noise that the sampler adds between steps.
        solver: sampler, steps and schedule; its fields are keywords as well.
        shift: distribution shift of the schedule; the length is that of start_noise.
        init: (b c n) to start from, noised to the first level, instead of pure noise.
        callback: function that is called with a StepInfo at every step.

    Returns:
        (b c n) float32.
    """
    options = dict(solver.options or {})
    spec = resolve_sampler(solver.sampler or objective.default_sampler, options)
    if isinstance(solver.schedule, Tensor):
        levels = solver.schedule.detach().to(device="cpu", dtype=torch.float64)
    else:
        levels = build_schedule(
            solver.schedule or default_schedule(spec, objective),
            solver.steps or objective.usual_steps,
            space=spec.space,
            ramp=solver,
            shift=shift,
            length=start_noise.shape[-1],
            objective=objective,
        )
    levels = distinct(levels)
    start = None if init is None else init.float()
    x = starting_point(start_noise.float(), start, spec, float(levels[0]), objective)
    denoise = Denoiser(predict, objective, spec.space)
    report = _reporter(callback, spec, levels)
    return spec.fn(denoise, x, levels, noise=noise, callback=report, **options)


def _reporter(callback: Callback | None, spec: SamplerSpec, levels: Tensor) -> SamplerCallback | None:
    if callback is None:
        return None
    steps = len(levels) - 1

    def report(i: int, x: Tensor, level: float, denoised: Tensor) -> None:
        _, sigma = spec.space.path(level)
        t = level if math.isfinite(spec.space.max_level) else VP.level(1.0, level)
        callback(StepInfo(i=i, steps=steps, x=x, level=level, t=t, sigma=sigma, denoised=denoised))

    return report
