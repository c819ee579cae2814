"""Known parts of latents, for every sampler, and against a conditional distribution in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stable_audio.diffusion.known import KnownLatents, renoised
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS, StepInfo
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.spaces import FLOW, SPACES

FLOWS = OBJECTIVES["rectified_flow"]()
RHO = 0.9


def correlated(x: Tensor, t: Tensor) -> Tensor:
    """Velocity for pairs of frames of unit variance and correlation RHO: E[noise - x0 | x]."""
    s = float(t[0])
    covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]])
    gain = (1 - s) * covariance @ torch.linalg.inv((1 - s) ** 2 * covariance + s**2 * torch.eye(2))
    denoised = x @ gain.T
    return (x - (1 - s) * denoised) / max(s, 1e-6) - denoised


def _noise(items: int) -> SeededNoise:
    return SeededNoise(range(items))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_ends_at_the_known_frames(name: str) -> None:
    noise = _noise(2)
    latents, start = (noise(torch.empty(2, 3, 4)) for _ in range(2))
    mask = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0]])
    steps: list[StepInfo] = []
    x = sample(
        lambda x, t: torch.zeros_like(x),
        start,
        objective=FLOWS,
        noise=noise,
        sampler=name,
        steps=6,
        callback=steps.append,
        known=KnownLatents(latents=latents, mask=mask, repeats=2, jump=2),
    )
    kept = mask[:, None].expand_as(x) > 0
    assert torch.equal(x[kept], latents[kept])
    assert not torch.isclose(x[~kept], latents[~kept]).any()
    assert [s.i for s in steps] == sorted(s.i for s in steps)  # repeated walks are not reported


def _new_frames(repeats: int) -> Tensor:
    """Second frames of 4096 pairs, as channels, of which the first is 1, by 24 Euler steps."""
    return sample(
        correlated,
        _noise(1)(torch.empty(1, 4096, 2)),
        objective=FLOWS,
        noise=SeededNoise([7]),
        sampler="euler",
        schedule="linear",
        steps=24,
        known=KnownLatents(latents=torch.ones(1, 4096, 2), mask=torch.tensor([[1.0, 0.0]]), repeats=repeats),
    )[0, :, 1]


def test_repeated_walks_bring_new_frames_to_their_distribution_given_the_known_ones() -> None:
    plain, repeated = _new_frames(1), _new_frames(8)
    # Given a first frame of 1, the second has mean RHO and variance 1 - RHO^2; once through, less is known.
    assert abs(float(plain.mean()) - RHO) > 0.2
    assert abs(float(repeated.mean()) - RHO) < 0.1
    assert abs(float(repeated.std()) - (1 - RHO**2) ** 0.5) < 0.1


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_noising_again_gives_the_distribution_of_the_higher_level(space: object) -> None:
    assert isinstance(space, type(FLOW))
    low, high = 0.3, 0.8
    noise = _noise(1)
    alpha, sigma = space.path(low)
    x = alpha * 2.0 + sigma * noise(torch.empty(1, 1, 200_000))
    again = renoised(x, low, high, space, noise)
    alpha, sigma = space.path(high)
    # Five standard errors of mean and deviation of 200,000 draws.
    assert abs(float(again.mean()) - 2 * alpha) < 5 * sigma / 200_000**0.5
    assert abs(float(again.std()) - sigma) < 5 * sigma / 400_000**0.5
    rows = renoised(x, torch.tensor([low]).double(), torch.tensor([high]).double(), space, _noise(1))
    assert rows.shape == x.shape
