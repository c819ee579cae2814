"""Ancestral sampling of DDPM (Ho et al. 2020, algorithm 2) on the circle alpha^2 + sigma^2 = 1."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, intervals
from stable_audio.diffusion.spaces import VP


def ddpm(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    variance: Literal["small", "large"] = "small",
    clip: float | None = None,
) -> Tensor:
    """Draw from the posterior of x' given x and the denoised estimate; equations 6 and 7.

    With a = alpha / alpha' and beta = 1 - a^2, the mean is alpha' beta / sigma^2 denoised +
    a sigma'^2 / sigma^2 x. The last step, to the data, is without noise.

    Args:
        variance: `small`: beta sigma'^2 / sigma^2, that of the posterior; `large`: beta.
        clip: keep the denoised estimate within [-clip, clip].
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', found '{variance}'")
    for i, level, next_level in intervals(schedule):
        denoised = denoise(x, level).denoised
        if clip is not None:
            denoised = denoised.clamp(-clip, clip)
        if callback is not None:
            callback(i, x, level, denoised)
        (alpha, sigma), (next_alpha, next_sigma) = VP.path(level), VP.path(next_level)
        ratio = alpha / next_alpha
        beta = max(1 - ratio**2, 0.0)
        small = beta * next_sigma**2 / sigma**2
        x = next_alpha * beta / sigma**2 * denoised + ratio * next_sigma**2 / sigma**2 * x
        if next_level > 0 and beta > 0:
            x = x + math.sqrt(small if variance == "small" else beta) * noise(x, level, next_level)
    return x
