"""DPM-Solver (Lu et al. 2022a) in the VE space: exponential integrators of the noise estimate.

Single steps of order 1 to 3 between values of lambda = -log sigma; `fast` spends a fixed number of
evaluations, `adaptive` controls the error. Both end at the lowest sigma above 0 without a last denoising.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise, Prediction
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, ancestral_split, log_ratio
from stable_audio.options import Flat, takes_keywords


class _Step:
    """One step from lambda to lambda + h, sharing evaluations between orders.

    Equations are those of the paper with alpha = 1; u are intermediate states, e their noise estimates.
    """

    def __init__(self, denoise: Denoise, x: Tensor, lam: float, start: Prediction) -> None:
        self._denoise = denoise
        self._x = x
        self._lam = lam
        self._e = start.noise
        self._intermediate: dict[tuple[float, ...], Tensor] = {}

    def first(self, h: float) -> Tensor:
        """DPM-Solver-1, which is DDIM."""
        return self._x - self._sigma(h) * math.expm1(h) * self._e

    def second(self, h: float, r: float = 0.5) -> Tensor:
        """DPM-Solver-2, algorithm 4 with r_1 = r."""
        e_1 = self._noise_at(h, r)
        return self.first(h) - self._sigma(h) / (2 * r) * math.expm1(h) * (e_1 - self._e)

    def third(self, h: float, r_1: float = 1 / 3, r_2: float = 2 / 3) -> Tensor:
        """DPM-Solver-3, algorithm 5."""
        e_1 = self._noise_at(h, r_1)
        bend = math.expm1(r_2 * h) / (r_2 * h) - 1
        u_2 = self.first(r_2 * h) - self._sigma(r_2 * h) * (r_2 / r_1) * bend * (e_1 - self._e)
        e_2 = self._denoise(u_2, self._sigma(r_2 * h)).noise
        weight = self._sigma(h) / r_2 * (math.expm1(h) / h - 1)
        return self.first(h) - weight * (e_2 - self._e)

    def _noise_at(self, h: float, r: float) -> Tensor:
        if (h, r) not in self._intermediate:
            u_1 = self.first(r * h)
            self._intermediate[h, r] = self._denoise(u_1, self._sigma(r * h)).noise
        return self._intermediate[h, r]

    def _sigma(self, h: float) -> float:
        return math.exp(-(self._lam + h))


_ORDERS: dict[int, Callable[[_Step, float], Tensor]] = {1: _Step.first, 2: _Step.second, 3: _Step.third}


def dpm_fast(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver-fast (section 3.4): as many evaluations as the schedule has steps, most in third order.

    Only the ends of the schedule are used; steps are even in lambda between them. eta > 0 adds fresh
    noise after each step.
    """
    if (only := _only_level(schedule)) is not None:
        return _denoised(denoise, x, only, callback)
    start, end = _ends(schedule)
    orders = evaluation_plan(len(schedule) - 1)
    h = (end - start) / len(orders)
    for i, order in enumerate(orders):
        lam = start + i * h
        x = _solver_step(denoise, x, i, lam, lam + h, order, noise, callback, eta, s_noise)
    return x


def evaluation_plan(evaluations: int) -> list[int]:
    """Orders of single steps that use exactly `evaluations` evaluations, as in section 3.4."""
    if evaluations % 3:
        return [3] * (evaluations // 3) + [evaluations % 3]
    return [3] * (evaluations // 3 - 1) + [2, 1]


def _solver_step(
    denoise: Denoise,
    x: Tensor,
    i: int,
    lam: float,
    lam_next: float,
    order: int,
    noise: Noise,
    callback: SamplerCallback | None,
    eta: float,
    s_noise: float,
) -> Tensor:
    sigma, sigma_next = math.exp(-lam), math.exp(-lam_next)
    prediction = denoise(x, sigma)
    if callback is not None:
        callback(i, x, sigma, prediction.denoised)
    down, up = (sigma_next, 0.0) if eta == 0 else ancestral_split(sigma, sigma_next, eta)
    x = _ORDERS[order](_Step(denoise, x, lam, prediction), log_ratio(down) - lam)
    return x + s_noise * up * noise(x, sigma, sigma_next) if up > 0 else x


@dataclass(frozen=True, kw_only=True)
class StepControlOptions:
    """Options of the step-size control of an adaptive sampler.

    Attributes:
        h_init: first step in lambda.
        pcoeff: proportional coefficient.
        icoeff: integral coefficient.
        dcoeff: derivative coefficient.
        accept_safety: a step whose factor falls below this is repeated with a smaller step size.
    """

    h_init: float = 0.05
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    accept_safety: float = 0.81


class StepControl:
    """PID control of the step size (Soderlind 2003) from the error of an embedded pair.

    h is multiplied by a smoothly limited product of powers of the last three inverse errors. A step whose
    factor falls below accept_safety is rejected and tried again with the smaller h.

    Args:
        order: order of the error.
    """

    def __init__(self, options: StepControlOptions, *, order: float) -> None:
        self.options, self.order, self.h = options, order, options.h_init
        self._inverse_errors: list[float] = []

    def propose(self, error: float) -> bool:
        """Update h; returns whether the step with this error (1 = as large as allowed) is accepted."""
        inverse = 1 / (error + 1e-8)
        past = self._inverse_errors or [inverse, inverse]
        o = self.options
        p, i, d = o.pcoeff, o.icoeff, o.dcoeff
        exponents = (p + i + d, -(p + 2 * d), d)
        factor = math.prod(e ** (c / self.order) for e, c in zip([inverse, *past], exponents))
        limited = 1 + math.atan(factor - 1)
        accepted = limited >= o.accept_safety
        self._inverse_errors = [inverse, past[0]] if accepted else past
        self.h *= limited
        return accepted


@takes_keywords
def dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    order: int = 3,
    rtol: float = 0.01,
    atol: float = 0.01,
    control: Flat[StepControlOptions] = StepControlOptions(),
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver-12 or -23 with adaptive steps (appendix C.2); only the ends of the schedule are used.

    The error is measured over the whole batch, so that all items take the same steps.

    Args:
        order: 2 or 3, the higher of the two orders that are compared.
        rtol: allowed error per step, relative to x.
        atol: allowed absolute error per step.
        control: the control of the step size; its fields are options as well.
    """
    if order not in (2, 3):
        raise ValueError(f"order must be 2 or 3, found {order}")
    if (only := _only_level(schedule)) is not None:
        return _denoised(denoise, x, only, callback)
    lam, end = _ends(schedule)
    steps = StepControl(control, order=1.5 if eta else order)
    x_previous, accepted_steps = x, 0
    prediction: Prediction | None = None
    while lam < end - 1e-5:
        lam_next = min(end, lam + steps.h)
        sigma, sigma_next = math.exp(-lam), math.exp(-lam_next)
        down, up = (sigma_next, 0.0) if eta == 0 else ancestral_split(sigma, sigma_next, eta)
        if prediction is None:  # a rejected step starts again from the same point
            prediction = denoise(x, sigma)
            if callback is not None:
                callback(accepted_steps, x, sigma, prediction.denoised)
        low, high = _pair(_Step(denoise, x, lam, prediction), min(log_ratio(down), end) - lam, order)
        tolerance = torch.clamp(rtol * torch.maximum(low.abs(), x_previous.abs()), min=atol)
        error = float(((low - high) / tolerance).square().mean().sqrt())
        if not math.isfinite(error) or steps.h < 1e-9:
            raise FloatingPointError(
                f"the error of k-dpm-adaptive is {error} at sigma {sigma:.3g}, with steps down to "
                f"{steps.h:.1e}: the model returns no finite numbers, or rtol and atol are too small"
            )
        if steps.propose(error):
            x_previous, x = low, high
            if up > 0:
                x = x + s_noise * up * noise(x, sigma, sigma_next)
            lam, prediction, accepted_steps = lam_next, None, accepted_steps + 1
    return x


def _pair(step: _Step, h: float, order: int) -> tuple[Tensor, Tensor]:
    """Results of two neighbouring orders that share evaluations."""
    if order == 2:
        return step.first(h), step.second(h)
    return step.second(h, r=1 / 3), step.third(h)


def _only_level(schedule: Tensor) -> float | None:
    """The level above 0 if there is only one, so that a single step leads to the data; None otherwise."""
    levels = schedule.tolist()
    return levels[0] if len(levels) == 2 and levels[0] > 0 == levels[1] else None


def _denoised(denoise: Denoise, x: Tensor, sigma: float, callback: SamplerCallback | None) -> Tensor:
    denoised = denoise(x, sigma).denoised
    if callback is not None:
        callback(0, x, sigma, denoised)
    return denoised


def _ends(schedule: Tensor) -> tuple[float, float]:
    """-log of the first sigma and of the last one above 0."""
    positive = [s for s in schedule.tolist() if s > 0]
    if len(positive) < 2:
        raise ValueError("this sampler needs a schedule with at least two levels above 0")
    return log_ratio(positive[0]), log_ratio(positive[-1])
