"""Data with a known score: independent values from N(MEAN, STD^2), and the network that is exactly right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoiser
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.spaces import Space

MEAN, STD = 0.7, 0.4
Deviation = float | Tensor  # a tensor (1 c 1) gives every channel its own


def ideal(objective: Objective, std: Deviation = STD) -> Callable[[Tensor, Tensor], Tensor]:
    """E[target | x_t] in closed form; the posterior of (x0, noise) given x_t is Gaussian."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v.view(-1, 1, 1).to(x.dtype) for v in objective.alpha_sigma(t.double()))
        variance = alpha**2 * std**2 + sigma**2
        gap = x - alpha * MEAN
        x0, noise = MEAN + alpha * std**2 / variance * gap, sigma / variance * gap
        return objective.target(x0, noise, t.to(x.dtype)).to(x.dtype)

    return predict


def ideal_denoiser(objective: Objective, space: Space) -> Denoiser:
    return Denoiser(ideal(objective), objective, space)


def deviation(space: Space, level: float, std: Deviation = STD) -> Deviation:
    alpha, sigma = space.path(level)
    return (alpha**2 * std**2 + sigma**2) ** 0.5


def exact(x: Tensor, space: Space, start: float, end: float, std: Deviation = STD) -> Tensor:
    """Where the probability-flow ODE takes x: the standard score of a Gaussian does not change."""
    score = (x - space.path(start)[0] * MEAN) / deviation(space, start, std)
    return space.path(end)[0] * MEAN + deviation(space, end, std) * score


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
