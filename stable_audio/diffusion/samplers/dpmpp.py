"""DPM-Solver++ in the VE space (Lu et al. 2022b): multistep, stochastic and ancestral.

With lambda = -log sigma, h = lambda' - lambda: x' = (sigma' / sigma) x - expm1(-h) D is exact for a
constant denoised estimate D; higher orders extrapolate D from earlier steps.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, ancestral_split, intervals, log_ratio


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """DPM-Solver++(2M), algorithm 2; deterministic, second order, one evaluation per step."""
    previous: tuple[float, Tensor] | None = None
    for i, sigma, sigma_next in intervals(schedule):
        denoised = denoise(x, sigma).denoised
        if callback is not None:
            callback(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        h = log_ratio(sigma_next) - log_ratio(sigma)
        estimate = denoised
        if previous is not None:
            share = h / (2 * previous[0])
            estimate = (1 + share) * denoised - share * previous[1]
        x = (sigma_next / sigma) * x - math.expm1(-h) * estimate
        previous = (h, denoised)
    return x


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: Literal["midpoint", "heun"] = "midpoint",
) -> Tensor:
    """SDE-DPM-Solver++(2M); eta scales the noise of the SDE (0 = deterministic), s_noise its deviation."""
    if solver_type not in ("midpoint", "heun"):
        raise ValueError(f"solver_type must be 'midpoint' or 'heun', found '{solver_type}'")
    previous: tuple[float, Tensor] | None = None
    for i, sigma, sigma_next in intervals(schedule):
        denoised = denoise(x, sigma).denoised
        if callback is not None:
            callback(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        h = log_ratio(sigma_next) - log_ratio(sigma)
        span = h * (1 + eta)
        gain = -math.expm1(-span)
        result = (sigma_next / sigma) * math.exp(-eta * h) * x + gain * denoised
        if previous is not None:
            weight = gain / 2 if solver_type == "midpoint" else 1 - gain / span
            result = result + weight * (h / previous[0]) * (denoised - previous[1])
        x = _with_noise(result, noise, sigma, sigma_next, eta, s_noise)
        previous = (h, denoised)
    return x


def dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """SDE-DPM-Solver++(3M): D extrapolated with its first and second divided difference in lambda."""
    past: deque[tuple[float, Tensor]] = deque(maxlen=2)  # (step in lambda, denoised), latest first
    for i, sigma, sigma_next in intervals(schedule):
        denoised = denoise(x, sigma).denoised
        if callback is not None:
            callback(i, x, sigma, denoised)
        if sigma_next == 0:
            return denoised
        h = log_ratio(sigma_next) - log_ratio(sigma)
        span = h * (1 + eta)
        first, second = _differences(h, denoised, past)
        phi_2 = math.expm1(-span) / span + 1
        phi_3 = phi_2 / span - 0.5
        result = math.exp(-span) * x - math.expm1(-span) * denoised
        if first is not None:
            result = result + phi_2 * first
        if second is not None:
            result = result - phi_3 * second
        x = _with_noise(result, noise, sigma, sigma_next, eta, s_noise)
        past.appendleft((h, denoised))
    return x


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """DPM-Solver++(2S), algorithm 1 with its midpoint, then fresh noise; two evaluations per step."""
    for i, sigma, sigma_next in intervals(schedule):
        prediction = denoise(x, sigma)
        if callback is not None:
            callback(i, x, sigma, prediction.denoised)
        down, up = ancestral_split(sigma, sigma_next, eta)
        if down == 0:
            x = prediction.denoised
        else:
            h = log_ratio(down) - log_ratio(sigma)
            middle = sigma * math.exp(-h / 2)
            halfway = (middle / sigma) * x - math.expm1(-h / 2) * prediction.denoised
            estimate = denoise(halfway, middle).denoised
            x = (down / sigma) * x - math.expm1(-h) * estimate
        if up > 0 and s_noise > 0:
            x = x + s_noise * up * noise(x, sigma, sigma_next)
    return x


def _with_noise(
    x: Tensor, noise: Noise, sigma: float, sigma_next: float, eta: float, s_noise: float
) -> Tensor:
    """Add the noise that the SDE accumulates from sigma to sigma_next."""
    if eta <= 0 or s_noise <= 0:
        return x
    h = log_ratio(sigma_next) - log_ratio(sigma)
    return x + s_noise * sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise(x, sigma, sigma_next)


def _differences(
    h: float, denoised: Tensor, past: deque[tuple[float, Tensor]]
) -> tuple[Tensor | None, Tensor | None]:
    """h times the first, h^2 times the second divided difference of D (one half of its derivative)."""
    if not past:
        return None, None
    h_1, denoised_1 = past[0]
    r_0 = h_1 / h
    recent = (denoised - denoised_1) / r_0
    if len(past) == 1:
        return recent, None
    h_2, denoised_2 = past[1]
    r_1 = h_2 / h
    older = (denoised_1 - denoised_2) / r_1
    bend = (recent - older) / (r_0 + r_1)
    return recent + bend * r_0, bend
