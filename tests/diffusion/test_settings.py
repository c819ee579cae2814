"""Settings of sampling: what a call leaves open comes from the model, then from the objective."""

from __future__ import annotations

from typing import Any

import pytest

from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.settings import SamplingSettings

PUBLISHED = SamplingSettings(
    sampler="dpmpp-3m-sde", steps=100, cfg_scale=7.0, sigma_min=0.3, sigma_max=500.0, options={"eta": 0.5}
)


def test_what_a_call_leaves_open_is_the_models() -> None:
    assert SamplingSettings().over(PUBLISHED) == PUBLISHED
    found = SamplingSettings(steps=8, sigma_min=0.01).over(PUBLISHED)
    assert (found.steps, found.sigma_min, found.sigma_max, found.cfg_scale) == (8, 0.01, 500.0, 7.0)


@pytest.mark.parametrize("change", [{"sampler": "euler"}, {"schedule": "karras"}])
def test_another_sampler_or_schedule_leaves_out_what_belonged_to_the_models(change: dict[str, Any]) -> None:
    found = SamplingSettings(**change).over(PUBLISHED)
    assert (found.sigma_min, found.sigma_max, found.options) == (None, None, {})
    assert (found.steps, found.cfg_scale) == (100, 7.0)
    same = SamplingSettings(sampler="dpmpp-3m-sde").over(PUBLISHED)
    assert same == PUBLISHED


def test_another_number_of_steps_than_the_list_of_the_model_leaves_it_out() -> None:
    model = SamplingSettings(sampler="euler", schedule=(1.0, 0.5, 0.0))
    assert SamplingSettings(steps=2).over(model).schedule == (1.0, 0.5, 0.0)
    assert SamplingSettings(steps=9).over(model).schedule is None


def test_the_rest_is_the_objectives() -> None:
    v = SamplingSettings().resolved(OBJECTIVES["v"]())
    assert (v.sampler, v.schedule, v.sigma_min, v.sigma_max, v.rho) == (
        "dpmpp-2m-sde",
        "polyexponential",
        0.01,
        100.0,
        1.0,
    )
    listed = SamplingSettings(sampler="dpmpp-2m", schedule=(500.0, 3.0, 0.0)).resolved(OBJECTIVES["v"]())
    assert (listed.steps, listed.sigma_max, listed.dist_shift) == (2, 500.0, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": (1.0, 0.5, 0.0), "steps": 5}, "steps is 5, but the schedule lists 3 levels"),
        ({"schedule": (0.5, 1.0, 0.0)}, "must fall to 0"),
        ({"schedule": (1.0, 0.5, 0.0), "dist_shift": True}, "a list is not shifted"),
        ({"cfg_interval": (0.5, 0.2)}, r"found \(0.5, 0.2\)"),
        ({"rho": float("inf")}, "rho must be a finite number"),
    ],
)
def test_contradictions_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**settings).resolved(OBJECTIVES["rectified_flow"]())
