from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_audio.diffusion.schedules import SCHEDULES, build_schedule, distinct
from stable_audio.diffusion.shift import DistributionShift
from stable_audio.diffusion.spaces import FLOW, SPACES, VE, VP


@settings(deadline=None)
@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.sampled_from(sorted(SPACES)),
    st.integers(1, 60),
    st.floats(0.1, 0.98),
)
def test_every_schedule_falls_to_zero_in_every_space(name: str, space: str, steps: int, start: float) -> None:
    levels = build_schedule(name, steps, space=SPACES[space], sigma_max=start)
    assert levels.shape == (steps + 1,)
    assert levels[-1] == 0
    assert torch.isfinite(levels).all()
    # A steep start can tie with the fixed first level of "logsnr", never rise above it.
    assert (levels.diff() < 0).all() or name == "logsnr"


def test_polyexponential_is_geometric_and_karras_follows_its_equation() -> None:
    levels = build_schedule("polyexponential", 3, space=VE, sigma_min=0.01, sigma_max=100)
    assert levels.tolist() == pytest.approx([100, 1, 0.01, 0])
    levels = build_schedule("karras", 3, space=VE, sigma_min=1, sigma_max=128, rho=7)
    assert levels.tolist() == pytest.approx([128, 1.5**7, 1, 0])


def test_exponential_ignores_the_ramp_and_cosine_steps_along_the_circle() -> None:
    levels = build_schedule("exponential", 3, space=VE, sigma_min=0.01, sigma_max=100, rho=7)
    assert levels.tolist() == pytest.approx([100, 1, 0.01, 0])
    angles = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64) * torch.pi / 2
    assert torch.allclose(build_schedule("cosine", 4, space=VP), angles * 2 / torch.pi)
    flow = build_schedule("cosine", 4, space=FLOW)
    assert torch.allclose(flow, angles.sin() / (angles.sin() + angles.cos()))
    tangents = build_schedule("cosine", 4, space=VE, sigma_max=0.8)
    assert torch.allclose(tangents, (0.8 * angles).tan())


def test_logsnr_has_even_steps_of_the_log_ratio() -> None:
    levels = build_schedule("logsnr", 8, space=FLOW)
    inner = torch.log((1 - levels[1:-1]) / levels[1:-1])
    assert inner.tolist() == pytest.approx([-6 + i for i in range(1, 8)], abs=1e-9)
    assert levels[0] == 1


def test_shift_moves_the_inner_levels_up() -> None:
    plain = build_schedule("linear", 10, space=FLOW)
    shifted = build_schedule("linear", 10, space=FLOW, shift=DistributionShift(), length=2048)
    assert (shifted[1:-1] > plain[1:-1]).all()
    assert shifted[0] == 1
    assert shifted[-1] == 0


def test_conversion_matches_the_noise_ratio() -> None:
    flow = build_schedule("linear", 4, space=FLOW, sigma_max=0.8)
    ratio = flow / (1 - flow)
    sigmas = build_schedule("logsnr", 4, space=VE, sigma_max=0.8)
    t = build_schedule("logsnr", 4, space=FLOW, sigma_max=0.8)
    assert sigmas.tolist() == pytest.approx((t / (1 - t)).tolist())
    assert ratio[0] == pytest.approx(float(sigmas[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "karas"}, "unknown schedule 'karas'; known: polyexponential, karras, linear, logsnr"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"sigma_min": 5.0, "sigma_max": 1.0}, "sigma_min 5.0"),
        ({"sigma_max": -1.0}, "sigma_max -1.0"),
        ({"name": "linear"}, "give a sigma_max below 1"),
        ({"shift": DistributionShift(), "length": 300}, "no distribution shift"),
        ({"name": "linear", "space": VP, "shift": DistributionShift()}, "needs the length"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    arguments = {"name": "polyexponential", "steps": 5, "space": VE, **change}
    with pytest.raises(ValueError, match=message):
        build_schedule(arguments.pop("name"), arguments.pop("steps"), **arguments)


@pytest.mark.parametrize("start", [0.5, 0.12, 0.1, 0.01, 1e-4])
def test_levels_that_are_walked_fall_from_any_start(start: float) -> None:
    levels = distinct(build_schedule("logsnr", 20, space=FLOW, sigma_max=start))
    assert levels[0] == start
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()
