"""The levels of schedules by name.

Each function returns `steps + 1` levels of its own space as a float64 tensor on the CPU, the last one 0;
those for processes of steps return the numbers of `steps` steps, falling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def polyexponential(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Sigmas whose logarithm falls along a polynomial ramp of exponent rho, then 0 (rho 1: geometric)."""
    ramp = torch.linspace(1, 0, steps, dtype=torch.float64) ** rho
    sigmas = torch.exp(ramp * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min))
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def exponential(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Sigmas in equal ratios from sigma_max to sigma_min, then 0; rho is ignored."""
    return polyexponential(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=1.0)


def cosine(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Equal steps along the cosine path: alpha = cos(pi u / 2), u from sigma_max (at most 1) to 0.

    The schedule of Nichol & Dhariwal 2021 in continuous time, for samplers of every path; for those of the VP
    space it is `linear`. sigma_min and rho are ignored.
    """
    return linear(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)


def karras(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Sigmas of Karras et al. 2022, equation 5, then 0; the paper uses rho 7."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (high + ramp * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def linear(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """t in equal steps from sigma_max (at most 1) to 0; sigma_min and rho are ignored."""
    return torch.linspace(min(sigma_max, 1.0), 0, steps + 1, dtype=torch.float64)


def shifted(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """As `linear`, to be bent by the model's distribution shift, after which it starts at sigma_max again."""
    return linear(steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)


def logsnr(steps: int, *, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Flow times in equal steps of the log signal-to-noise ratio, from t = sigma_max (at most 1) to 0.

    The log ratio ends at 2 and starts at that of sigma_max, or at -6 for pure noise, where it is infinite.
    Then the ends are set to sigma_max and 0 exactly. sigma_min and rho are ignored. With a start below
    t = 0.12, where the log ratio is above 2, the levels in between rise, as in stable-audio-tools; `distinct`
    drops them.
    """
    start = min(sigma_max, 1.0)
    first = math.log((1 - start) / start + 1e-6) if start < 1 else -6.0
    t = torch.sigmoid(-torch.linspace(first, 2.0, steps + 1, dtype=torch.float64))
    t[0], t[-1] = start, 0.0
    return t


def leading(steps: int, total: int) -> Tensor:
    """Every k-th of `total` steps, k = total // steps, from the second one up: 1, 1 + k, ...

    Song et al. 2020, with the offset of latent diffusion; from 0 up if the last one would exceed the top.
    """
    stride = total // steps
    first = min(1, total - 1 - (steps - 1) * stride)
    return torch.arange(steps, dtype=torch.float64).flip(0) * stride + first


def trailing(steps: int, total: int) -> Tensor:
    """Evenly backwards from the last step: N - 1, N - 1 - N / steps, ... (Lin et al. 2023, table 2)."""
    return (total - torch.arange(steps, dtype=torch.float64) * (total / steps)).round() - 1


def linspace(steps: int, total: int) -> Tensor:
    """Evenly from the last step to the first one, both included."""
    return torch.linspace(total - 1, 0, steps, dtype=torch.float64).round()
