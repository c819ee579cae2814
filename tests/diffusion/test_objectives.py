from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_audio.diffusion.denoiser import Denoiser, Output
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.spaces import FLOW, SPACES, VE, VP
from tests.diffusion.gaussian import normal


@pytest.mark.parametrize("name", OBJECTIVES)
def test_target_gives_back_data_and_noise(name: str) -> None:
    objective = OBJECTIVES[name]()
    x0, noise, t = normal(5, 2, 7), normal(5, 2, 7, seed=1), torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    x_t, target = objective.noisy(x0, noise, t), objective.target(x0, noise, t)
    # At one end each, noise says nothing of the data, and data nothing of the noise.
    has_x0, has_noise = slice(0, 4 if name == "epsilon" else 5), slice(1 if name == "x0" else 0, 5)
    denoised, estimate = objective.denoised(target, x_t, t), objective.noise(target, x_t, t)
    assert torch.allclose(denoised[has_x0], x0[has_x0], atol=3e-6)
    assert torch.allclose(estimate[has_noise], noise[has_noise], atol=3e-6)
    assert torch.isfinite(denoised).all()
    assert torch.isfinite(estimate).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ends_are_data_and_noise(name: str) -> None:
    objective = OBJECTIVES[name]()
    x0, noise = normal(2, 1, 4), normal(2, 1, 4, seed=1)
    assert torch.allclose(objective.noisy(x0, noise, torch.zeros(2)), x0)
    assert torch.allclose(objective.noisy(x0, noise, torch.ones(2)), noise, atol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_tensors_and_numbers_agree_on_the_path(name: str) -> None:
    objective = OBJECTIVES[name]()
    for t in (0.0, 0.3, 1.0):
        alpha, sigma = objective.alpha_sigma(torch.tensor(t))
        assert objective.space.path(t) == pytest.approx((float(alpha), float(sigma)), abs=1e-6)


def test_v_stays_on_the_circle_and_flow_on_the_line() -> None:
    t = torch.linspace(0, 1, 11)
    alpha, sigma = OBJECTIVES["v"]().alpha_sigma(t)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(11))
    alpha, sigma = OBJECTIVES["rectified_flow"]().alpha_sigma(t)
    assert torch.allclose(alpha + sigma, torch.ones(11))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults_are_known_samplers(name: str) -> None:
    assert OBJECTIVES[name].default_sampler in SAMPLERS
    assert OBJECTIVES[name].demo_sampler in SAMPLERS


@settings(deadline=None)
@given(st.floats(0, 0.999), st.sampled_from(sorted(SPACES)), st.sampled_from(sorted(SPACES)))
def test_levels_survive_a_change_of_space(t: float, first: str, second: str) -> None:
    a, b = SPACES[first], SPACES[second]
    level = VP.convert(t, a)
    assert b.convert(a.convert(level, b), a) == pytest.approx(level, rel=1e-9, abs=1e-12)


def test_pure_noise_has_a_level_in_bounded_spaces_only() -> None:
    assert VP.convert(1.0, FLOW) == pytest.approx(1.0)
    assert FLOW.convert(1.0, VP) == 1.0
    assert math.isinf(FLOW.convert(1.0, VE))
    assert math.isinf(VP.convert(1.0, VE))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_denoiser_is_right_in_every_space(name: str, space) -> None:
    """A backbone that returns the true target must lead back to data and noise, whatever space asks."""
    objective = OBJECTIVES[name]()
    x0, noise = normal(3, 2, 5), normal(3, 2, 5, seed=1)
    level = VP.convert(0.6, space)
    alpha, sigma = space.path(level)

    def oracle(x: torch.Tensor, t: torch.Tensor) -> Output:
        assert torch.allclose(x, objective.noisy(x0, noise, t), atol=1e-5)
        target = objective.target(x0, noise, t)
        return Output(target, uncond=objective.target(2 * x0, 2 * noise, t))

    prediction = Denoiser(oracle, objective, space)(alpha * x0 + sigma * noise, level)
    assert torch.allclose(prediction.denoised, x0, atol=1e-5)
    assert torch.allclose(prediction.noise, noise, atol=1e-5)
    assert prediction.uncond_noise is not None
    assert not torch.allclose(prediction.uncond_noise, noise, atol=0.1)


def test_the_denoiser_leaves_x_alone_in_the_space_of_the_objective() -> None:
    x = normal(1, 1, 4)
    Denoiser(lambda seen, t: torch.zeros_like(seen) if seen is x else 1 / 0, OBJECTIVES["v"](), VP)(x, 0.3)


def test_shift_known_value_and_ends() -> None:
    shift = DistributionShift()
    t = torch.tensor([0.0, 0.5, 1.0])
    assert shift(t, 1024).tolist() == pytest.approx([0.0, 0.6525, 1.0], abs=5e-5)
    assert shift(t, 100).tolist() == shift(t, 256).tolist()
    assert shift(t, 9000).tolist() == shift(t, 4096).tolist()


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10000), st.booleans())
def test_shift_keeps_order_and_range(a: float, b: float, length: int, sine: bool) -> None:
    shift = DistributionShift(use_sine=sine)
    low, high = shift(torch.tensor([min(a, b), max(a, b)], dtype=torch.float64), length).tolist()
    assert 0 <= low <= high <= 1 + 1e-12


def test_longer_latents_get_more_noise() -> None:
    shift, half = DistributionShift(), torch.tensor([0.5])
    values = [float(shift(half, n)) for n in (256, 1000, 2000, 4096)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_shift_rejects_lengths_in_the_wrong_order() -> None:
    with pytest.raises(ValueError, match="min_length 512 and max_length 256"):
        DistributionShift(min_length=512, max_length=256)
