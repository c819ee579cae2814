"""Samplers on straight paths: x = (1 - t) x0 + t noise, velocity = noise - x0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, item_intervals, weight
from stable_audio.diffusion.spaces import Level

_OFF_THE_ENDS = 1e-10


def euler(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """x += (t' - t) velocity(x, t); first order."""
    for i, t, t_next in item_intervals(schedule):
        prediction = denoise(x, t)
        if callback is not None:
            callback(i, x, t, prediction.denoised)
        x = x + weight(t_next - t, x) * (prediction.noise - prediction.denoised)
    return x


def euler_cfgpp(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """CFG++ (Chung et al. 2024) on straight paths: denoise guided, renoise with the unconditional estimate.

    x = (1 - t') denoised + t' noise. Without an unconditional branch, the step is that of `euler`.
    """
    for i, t, t_next in item_intervals(schedule):
        prediction = denoise(x, t)
        if callback is not None:
            callback(i, x, t, prediction.denoised)
        direction = prediction.noise if prediction.uncond_noise is None else prediction.uncond_noise
        x = weight(1 - t_next, x) * prediction.denoised + weight(t_next, x) * direction
    return x


def flow_heun(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """Trapezoidal steps (Karras et al. 2022, algorithm 1, for velocities); the last one is an Euler step.

    Second order, two evaluations per step but one in the last, behind which nothing is left to denoise.
    """
    for i, t, t_next in item_intervals(schedule):
        prediction = denoise(x, t)
        if callback is not None:
            callback(i, x, t, prediction.denoised)
        step, slope = weight(t_next - t, x), prediction.noise - prediction.denoised
        if not _is_end(t_next):
            ahead = denoise(x + step * slope, t_next)
            slope = (slope + ahead.noise - ahead.denoised) / 2
        x = x + step * slope
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

    def velocity(state: Tensor, level: Level) -> Tensor:
        prediction = denoise(state, level)
        return prediction.noise - prediction.denoised

    for i, t, t_next in item_intervals(schedule):
        h = t_next - t
        first = denoise(x, t)
        if callback is not None:
            callback(i, x, t, first.denoised)
        k1 = first.noise - first.denoised
        half, whole, sixth = (weight(h / n, x) for n in (2, 1, 6))
        k2 = velocity(x + half * k1, t + h / 2)
        k3 = velocity(x + half * k2, t + h / 2)
        k4 = velocity(x + whole * k3, t_next)
        x = x + sixth * (k1 + 2 * k2 + 2 * k3 + k4)
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

    First order in the first and the last step; also in the second if the first is from pure noise, whose log
    signal-to-noise ratio is infinite. Where items have schedules of their own, the ratio of pure noise counts
    as 1e-10, as in stable-audio-3.
    """
    last = schedule.shape[-1] - 2
    previous: tuple[Level, Tensor] | None = None
    for i, t, t_next in item_intervals(schedule):
        denoised = denoise(x, t).denoised
        if callback is not None:
            callback(i, x, t, denoised)
        lam, lam_next = _half_logsnr(t), _half_logsnr(t_next)
        estimate = denoised
        if previous is not None and i < last:
            share = weight(_share(lam_next - lam, lam - previous[0]), x)
            estimate = (1 + share) * denoised - share * previous[1]
        # 1 - t' / t = -(1 - t') expm1(lam - lam'), without logarithms, which are infinite at the ends
        x = weight(t_next / t, x) * x + weight(1 - t_next / t, x) * estimate
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
    for i, t, t_next in item_intervals(schedule):
        denoised = denoise(x, t).denoised
        if callback is not None:
            callback(i, x, t, denoised)
        if _is_end(t_next):
            x = denoised
        else:
            x = weight(1 - t_next, x) * denoised + weight(t_next, x) * noise(x, t, t_next)
    return x


def _half_logsnr(t: Level) -> Level:
    """log(alpha / sigma), infinite at both ends; levels of items are kept off the ends."""
    if isinstance(t, Tensor):
        return torch.log((1 - t).clamp(min=_OFF_THE_ENDS) / t.clamp(min=_OFF_THE_ENDS))
    if t <= 0:
        return math.inf
    return math.log((1 - t) / t) if t < 1 else -math.inf


def _share(step: Level, before: Level) -> Level:
    """1 / (2 r), r being `before` / `step` in log ratios; 0 after a step from pure noise or of no size."""
    if isinstance(step, Tensor):
        return torch.where(before != 0, step / (2 * before), 0.0)  # type: ignore[arg-type]
    return step / (2 * before) if before else 0.0


def _is_end(t: Level) -> bool:
    return not t.any() if isinstance(t, Tensor) else t == 0
