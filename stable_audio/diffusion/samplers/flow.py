"""Samplers on straight paths: x = (1 - t) x0 + t noise, velocity = noise - x0."""

from __future__ import annotations

import math

from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, intervals


def euler(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """x += (t' - t) velocity(x, t); first order."""
    for i, t, t_next in intervals(schedule):
        prediction = denoise(x, t)
        if callback is not None:
            callback(i, x, t, prediction.denoised)
        x = x + (t_next - t) * (prediction.noise - prediction.denoised)
    return x


def rk4(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """The classic Runge-Kutta method; fourth order, four evaluations per step."""

    def velocity(state: Tensor, level: float) -> Tensor:
        prediction = denoise(state, level)
        return prediction.noise - prediction.denoised

    for i, t, t_next in intervals(schedule):
        h = t_next - t
        first = denoise(x, t)
        if callback is not None:
            callback(i, x, t, first.denoised)
        k1 = first.noise - first.denoised
        k2 = velocity(x + h / 2 * k1, t + h / 2)
        k3 = velocity(x + h / 2 * k2, t + h / 2)
        k4 = velocity(x + h * k3, t_next)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def flow_dpmpp(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2) with alpha = 1 - t, sigma = t.

    First order in the first and the last step; also in steps from pure noise, whose log signal-to-noise
    ratio is infinite.
    """
    last = len(schedule) - 2
    previous: tuple[float, Tensor] | None = None
    for i, t, t_next in intervals(schedule):
        denoised = denoise(x, t).denoised
        if callback is not None:
            callback(i, x, t, denoised)
        lam, lam_next = _half_logsnr(t), _half_logsnr(t_next)
        estimate = denoised
        if previous is not None and i < last and math.isfinite(previous[0]):
            share = (lam_next - lam) / (2 * (lam - previous[0]))  # 1 / (2 r)
            estimate = (1 + share) * denoised - share * previous[1]
        x = (t_next / t) * x - (1 - t_next) * math.expm1(lam - lam_next) * estimate
        previous = (lam, denoised)
    return x


def pingpong(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """Denoise, add fresh noise: x = (1 - t') denoised + t' fresh (Song et al. 2023, algorithm 1)."""
    for i, t, t_next in intervals(schedule):
        denoised = denoise(x, t).denoised
        if callback is not None:
            callback(i, x, t, denoised)
        x = denoised if t_next == 0 else (1 - t_next) * denoised + t_next * noise(x, t, t_next)
    return x


def _half_logsnr(t: float) -> float:
    """log(alpha / sigma), infinite at both ends."""
    if t <= 0:
        return math.inf
    return math.log((1 - t) / t) if t < 1 else -math.inf
