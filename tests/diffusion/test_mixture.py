"""Two-sample tests: every sampler and objective against a mixture of Gaussians whose score is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.mixture import Mixture
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.sampling import sample

COUNT = 1500
MIXTURE = Mixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]], dtype=torch.float64), std=0.4)
"""Eight deviations apart, so that the nearest mean tells where a sample belongs."""


def surprise(samples: Tensor) -> float:
    """How unlikely samples (n 2 1) are under the mixture; above 2.5 with a probability below 1e-4.

    The largest of: the deviation of the shares of the Gaussians from a third, and that of the variance within
    them, both in halves of standard errors; and sqrt(n) times the distance of the standardised residuals from
    the normal distribution (Kolmogorov's test: P(sqrt(n) D > z) is about 2 exp(-2 z^2)).
    """
    points = samples.double().flatten(1)
    nearest = torch.cdist(points, MIXTURE.means).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / len(points)
    off = (shares - 1 / 3).abs().max() / math.sqrt(2 / 9 / len(points)) / 2
    residuals = ((points - MIXTURE.means[nearest]) / MIXTURE.std).flatten().sort().values
    expected, n = torch.special.ndtr(residuals), len(residuals)
    spread = (residuals.square().mean() - 1).abs() / math.sqrt(2 / n) / 2
    steps = torch.arange(n + 1) / n
    distance = torch.maximum((expected - steps[:-1]).abs().max(), (expected - steps[1:]).abs().max())
    return max(float(off), float(spread), math.sqrt(n) * float(distance))


LIMIT = 2.5

STEPS = {"ddpm": 300, "k-dpmpp-2s-ancestral": 60}
OPTIONS: dict[str, dict[str, Any]] = {"k-dpm-adaptive": {"rtol": 0.05, "atol": 0.05}}


def drawn(name: str, objective_name: str, *, mixture: Mixture = MIXTURE, **settings: Any) -> Tensor:
    objective, noise = OBJECTIVES[objective_name](), SeededNoise([3])
    start = noise(torch.empty(1, COUNT * 2)).view(COUNT, 2, 1)

    def draw(like: Tensor, t_from: Any = None, t_to: Any = None) -> Tensor:
        return noise(torch.empty(1, like.numel())).view_as(like)

    return sample(
        mixture.network(objective),
        start,
        objective=objective,
        noise=draw,
        sampler=name,
        steps=STEPS.get(name, 40),
        options=OPTIONS.get(name, {}),
        **settings,
    )


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "pingpong"])
def test_samples_of_every_sampler_are_of_the_mixture(name: str) -> None:
    schedule = "linear" if SAMPLERS[name].space.name == "flow" else None  # logsnr ends with a long step
    found = drawn(name, "rectified_flow", schedule=schedule)
    assert surprise(found) < LIMIT


@pytest.mark.parametrize("name", ["unipc", "dpmpp-2m"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_by_every_objective_are_of_the_mixture(name: str, objective: str) -> None:
    assert surprise(drawn(name, objective, schedule="polyexponential")) < LIMIT


def test_pingpong_loses_the_spread_that_its_estimates_lack() -> None:
    """Of one Gaussian in closed form: an estimate keeps alpha^2 v + sigma^2 times the square of its slope."""
    one = Mixture(MIXTURE.means[:1], MIXTURE.std)
    levels = [*torch.linspace(1, 0.1, 10).tolist(), 0.0]
    found = drawn("pingpong", "rectified_flow", mixture=one, schedule=tuple(levels)).double().flatten(1)
    expected = 0.0
    for sigma in levels[:-1]:
        alpha, variance = 1 - sigma, one.std**2
        slope = alpha * variance / (alpha**2 * variance + sigma**2)
        expected = slope**2 * (alpha**2 * expected + sigma**2)
    spread = float((found - one.means).square().mean())
    assert spread == pytest.approx(expected, rel=5 * math.sqrt(2 / found.numel()))


@pytest.mark.parametrize("std", [0.45, 0.36])
def test_the_test_notices_another_deviation(std: float) -> None:
    assert surprise(Mixture(MIXTURE.means, std).samples(COUNT)) > LIMIT
    assert surprise(MIXTURE.samples(COUNT)) < LIMIT


def test_the_test_notices_other_shares() -> None:
    uneven = Mixture(MIXTURE.means[[0, 0, 1, 1, 2]], MIXTURE.std).samples(COUNT)
    assert surprise(uneven) > LIMIT


def test_the_network_of_the_mixture_is_its_score() -> None:
    """E[noise | x] = -sigma grad log p(x), with the gradient by autograd."""
    objective, t = OBJECTIVES["epsilon"](), 0.45
    alpha, sigma = math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)
    x = torch.randn(5, 2, 1, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    variance = alpha**2 * MIXTURE.std**2 + sigma**2
    gaps = x[:, :, 0][:, None] - alpha * MIXTURE.means
    (-gaps.square().sum(-1) / (2 * variance)).logsumexp(1).sum().backward()
    found = MIXTURE.network(objective)(x.detach(), torch.full((5,), t, dtype=torch.float64))
    assert x.grad is not None
    assert torch.allclose(found, -sigma * x.grad, atol=1e-9)
