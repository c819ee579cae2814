"""Outputs that are extrapolated along t are exact for polynomials, and cost no evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Output
from stable_audio.diffusion.forecast import Forecast
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.sampling import sample

FLOW = OBJECTIVES["rectified_flow"]()
START = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


class Polynomial:
    """An output that is a polynomial in t, another one for each item, and its unconditional branch."""

    def __init__(self, degree: int) -> None:
        generator = torch.Generator().manual_seed(degree)
        self.coefficients = torch.randn(degree + 1, 2, generator=generator)
        self.calls: list[float] = []

    def at(self, t: Tensor) -> Tensor:
        powers = torch.stack([t**k for k in range(len(self.coefficients))])
        return (powers * self.coefficients).sum(0).view(-1, 1, 1)

    def __call__(self, x: Tensor, t: Tensor) -> Output:
        self.calls.append(round(float(t[0]), 4))
        return Output(self.at(t).expand_as(x), -self.at(t).expand_as(x))


def walked(predict: Polynomial, **settings: object) -> Tensor:
    options = {"sampler": "euler", "steps": 10, "schedule": "linear", **settings}
    return sample(predict, START, objective=FLOW, noise=SeededNoise([1, 2]), **options)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_polynomials_up_to_the_order_are_exact(order: int) -> None:
    every, fewer = Polynomial(order), Polynomial(order)
    expected = walked(every)
    result = walked(fewer, forecast_every=3, forecast_order=order)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    first = order + 1
    assert fewer.calls == every.calls[:first] + every.calls[first + 2 :: 3]


def test_a_higher_degree_is_not_exact() -> None:
    assert (walked(Polynomial(2), forecast_every=3) - walked(Polynomial(2))).abs().max() > 0.01


def test_levels_of_items_have_weights_of_their_own() -> None:
    levels = torch.stack([torch.linspace(1, 0, 11), torch.linspace(1, 0, 11) ** 2]).double()
    fewer = Polynomial(1)
    result = walked(fewer, schedule=levels, steps=None, forecast_every=2)
    torch.testing.assert_close(
        result, walked(Polynomial(1), schedule=levels, steps=None), atol=1e-5, rtol=1e-4
    )
    assert len(fewer.calls) == 6


@pytest.mark.parametrize("settings", [{}, {"forecast_every": 1}, {"forecast_every": None}])
def test_off_is_off(settings: dict[str, int]) -> None:
    predict = Polynomial(3)
    assert torch.equal(walked(predict, **settings), walked(Polynomial(3)))
    assert len(predict.calls) == 10


def test_both_branches_are_extrapolated_and_another_walk_starts_anew() -> None:
    predict = Polynomial(1)
    forecast = Forecast(predict, every=4)
    for start in (1.0, 0.9):  # the second walk begins above the end of the first
        for step in range(4):
            t = torch.full((2,), start - 0.2 * step)
            output = forecast(START, t)
            torch.testing.assert_close(output.value, predict.at(t).expand_as(START), atol=1e-5, rtol=1e-5)
            assert output.uncond is not None
            torch.testing.assert_close(output.uncond, -output.value, atol=1e-5, rtol=1e-5)
    assert predict.calls == [1.0, 0.8, 0.9, 0.7]


@pytest.mark.parametrize("sampler", ["k-heun", "dpmpp", "heun", "rk4", "pingpong", "unipc"])
def test_samplers_that_ask_twice_at_a_level_stay_finite(sampler: str) -> None:
    assert walked(Polynomial(2), sampler=sampler, schedule=None, forecast_every=2).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forecast_every": 0}, "forecast_every must be at least 1, found 0"),
        ({"forecast_every": 2, "forecast_order": 4}, "forecast_order must be from 0 to 3, found 4"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walked(Polynomial(0), **settings)
