"""`sample`: pure noise -> x0, with any sampler, schedule and objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise, Denoiser, Predict
from stable_audio.diffusion.forecast import Forecast
from stable_audio.diffusion.known import KnownLatents
from stable_audio.diffusion.level_lists import level_list
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.samplers import SAMPLERS, SamplerCallback, SamplerSpec, StepInfo
from stable_audio.diffusion.schedules import Ramp, build_schedule, distinct
from stable_audio.diffusion.shift import TimeShift
from stable_audio.diffusion.spaces import VP, Level, Space
from stable_audio.options import Flat, takes_keywords
from stable_audio.wording import hint

MAX_FORECAST_ORDER = 3
"""Polynomials of a higher degree swing between the outputs that they go through."""

Callback = Callable[[StepInfo], None]

StartNoise = Callable[[Tensor, float, Space], Tensor]
"""(noise (b c n), first level, its space) -> noise to start from."""


@dataclass(frozen=True, kw_only=True)
class Solver(Ramp):
    """The sampler and its levels.

    Attributes:
        sampler: key of SAMPLERS; None takes the default of the model's objective.
        steps: number of steps; None takes the default of the model's objective.
        schedule: key of SCHEDULES or STEP_SCHEDULES; None = the sampler's default; or the levels, from noise
            to 0, in the sampler's units: sigma for VE samplers, t for the others. A tensor of levels,
            (steps + 1,), or (b, steps + 1) with a row for each item, is walked as it is.
        options: options of the sampler, such as {"eta": 0.5}.
        forecast_every: evaluate the network at one call in this many, and extrapolate its output in
            between; None or 1 = at every call. For samplers of one evaluation per step, and many steps.
        forecast_order: degree of the extrapolation, 0 to 3; None = 1.
    """

    sampler: str | None = None
    steps: int | None = None
    schedule: str | Sequence[float] | Tensor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    forecast_every: int | None = None
    forecast_order: int | None = None

    def check_forecast(self) -> None:
        """Raise ValueError if a number of the extrapolation is out of range."""
        if self.forecast_every is not None and self.forecast_every < 1:
            raise ValueError(f"forecast_every must be at least 1, found {self.forecast_every}")
        if self.forecast_order is not None and not 0 <= self.forecast_order <= MAX_FORECAST_ORDER:
            raise ValueError(
                f"forecast_order must be from 0 to {MAX_FORECAST_ORDER}, found {self.forecast_order}"
            )

    def forecast(self, predict: Predict) -> Predict:
        """`predict` with fewer evaluations, if the settings ask for them."""
        self.check_forecast()
        if self.forecast_every in (None, 1):
            return predict
        order = 1 if self.forecast_order is None else self.forecast_order
        return Forecast(predict, every=self.forecast_every, order=order)


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
    noise: Tensor, init: Tensor | None, spec: SamplerSpec, level: Level, objective: Objective
) -> Tensor:
    """x at the first level: alpha init + sigma noise; without init, noise alone.

    In the bounded spaces noise keeps its unit variance even if the first level is below the top: x has
    about that variance at every level. On a process of steps, whose last step need not be pure noise,
    noise has unit variance in the space of the process, as published models expect.
    """
    if isinstance(level, Tensor):
        inits = [None] * len(noise) if init is None else init.split(1)
        items = zip(noise.split(1), inits, level.tolist(), strict=True)
        return torch.cat([starting_point(n, i, spec, value, objective) for n, i, value in items])
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
    shift: TimeShift | None = None,
    lengths: int | Sequence[int] | None = None,
    init: Tensor | None = None,
    known: KnownLatents | None = None,
    start: StartNoise | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Generate x0 from noise, in float32 whatever type `predict` computes in.

    Args:
        predict: (x (b c n), t (b,)) -> output of the backbone, guided or not.
        start_noise: (b c n), unit variance.
        objective: objective that defines what `predict` returns.
        noise: source of the noise that the sampler adds between steps.
        solver: sampler, steps and schedule; its fields are keywords as well.
        shift: distribution shift of the schedule.
        lengths: latent frames for the shift, of all items or of each one, for samplers that walk a schedule
            per item; None: those of start_noise.
        init: (b c n) to start from, noised to the first level, instead of pure noise.
        known: latents of which parts are kept.
        start: makes another noise of start_noise when the first level is known.
        callback: function that is called with a StepInfo at every step.

    Returns:
        (b c n) float32.

    Raises:
        ValueError: an unknown name, numbers out of range, or levels per item for a sampler that has none.
    """
    options = dict(solver.options or {})
    spec = resolve_sampler(solver.sampler or objective.default_sampler, options)
    if isinstance(solver.schedule, Tensor):
        levels = solver.schedule.detach().to(device="cpu", dtype=torch.float64)
    elif solver.schedule is not None and not isinstance(solver.schedule, str):
        levels = level_list(
            solver.schedule, space=spec.space, objective=objective, sigma_max=solver.sigma_max
        )
    else:
        levels = build_schedule(
            solver.schedule or default_schedule(spec, objective),
            solver.steps or objective.usual_steps,
            space=spec.space,
            ramp=solver,
            shift=shift,
            length=start_noise.shape[-1] if lengths is None else lengths,
            objective=objective,
        )
    levels = levels if isinstance(solver.schedule, str) and solver.schedule == "shifted" else distinct(levels)
    _check_rows(levels, spec, solver.sampler or objective.default_sampler, start_noise)
    first = levels[:, 0] if levels.ndim == 2 else float(levels[0])
    start_noise = start_noise.float()
    if start is not None:
        start_noise = start(start_noise, float(levels.flatten()[0]), spec.space)
    x = starting_point(start_noise, None if init is None else init.float(), spec, first, objective)
    denoise: Denoise = Denoiser(solver.forecast(predict), objective, spec.space)
    report = _reporter(callback, spec, levels)
    if known is None:
        return spec.fn(denoise, x, levels, noise=noise, callback=report, **options)
    denoise = known.imposed(denoise, spec.space)

    def walk(x: Tensor, levels: Tensor, report: SamplerCallback | None) -> Tensor:
        return spec.fn(denoise, x, levels, noise=noise, callback=report, **options)

    x = known.started(x, start_noise, spec.space, first)
    return known.walked(walk, x, levels, spec, noise=noise, report=report)


def _reporter(callback: Callback | None, spec: SamplerSpec, levels: Tensor) -> SamplerCallback | None:
    if callback is None:
        return None
    steps = levels.shape[-1] - 1

    def report(i: int, x: Tensor, level: Level, denoised: Tensor) -> None:
        if isinstance(level, Tensor):
            sigma_of_items = torch.tensor([spec.space.path(value)[1] for value in level.tolist()])
            callback(
                StepInfo(i=i, steps=steps, x=x, level=level, t=level, sigma=sigma_of_items, denoised=denoised)
            )
            return
        _, sigma = spec.space.path(level)
        t = level if math.isfinite(spec.space.max_level) else VP.level(1.0, level)
        callback(StepInfo(i=i, steps=steps, x=x, level=level, t=t, sigma=sigma, denoised=denoised))

    return report


def _check_rows(levels: Tensor, spec: SamplerSpec, name: str, noise: Tensor) -> None:
    if levels.ndim == 1:
        return
    if not spec.per_item:
        able = ", ".join(key for key, other in SAMPLERS.items() if other.per_item)
        raise ValueError(f"sampler '{name}' walks one schedule for all items; {able} take one per item")
    if levels.shape[0] != noise.shape[0]:
        raise ValueError(f"found schedules of {levels.shape[0]} items for a batch of {noise.shape[0]}")
