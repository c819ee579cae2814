"""DDIM on the circle alpha = cos, sigma = sin (Song et al. 2020), and CFG++ (Chung et al. 2024)."""

from __future__ import annotations

import math

from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, intervals
from stable_audio.diffusion.spaces import VP


def ddim(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """x' = alpha' denoised + sigma' noise_estimate; eta > 0 replaces a part of the latter by fresh noise."""
    for i, level, next_level in intervals(schedule):
        prediction = denoise(x, level)
        if callback is not None:
            callback(i, x, level, prediction.denoised)
        alpha, sigma = VP.path(next_level)
        fresh_sigma = eta * _ancestral_sigma(level, next_level)
        estimate_sigma = math.sqrt(max(sigma**2 - fresh_sigma**2, 0.0))
        x = alpha * prediction.denoised + estimate_sigma * prediction.noise
        if fresh_sigma > 0:
            x = x + fresh_sigma * noise(x, level, next_level)
    return x


def ddim_cfgpp(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """CFG++: denoise with the guided estimate, but renoise with the unconditional one.

    Without an unconditional branch, the step is that of DDIM.
    """
    for i, level, next_level in intervals(schedule):
        prediction = denoise(x, level)
        if callback is not None:
            callback(i, x, level, prediction.denoised)
        alpha, sigma = VP.path(next_level)
        direction = prediction.noise if prediction.uncond_noise is None else prediction.uncond_noise
        x = alpha * prediction.denoised + sigma * direction
    return x


def _ancestral_sigma(level: float, next_level: float) -> float:
    """Deviation of the fresh noise that makes the step a DDPM step: DDIM, equation 16 with eta 1."""
    (alpha, sigma), (next_alpha, next_sigma) = VP.path(level), VP.path(next_level)
    remaining = max(1 - alpha**2 / next_alpha**2, 0.0)
    return next_sigma / sigma * math.sqrt(remaining)
