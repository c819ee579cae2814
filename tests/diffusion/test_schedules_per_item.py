"""Shifts by the length of each item, and samplers that walk a schedule for each item."""

from __future__ import annotations

import math

import pytest
import torch

from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.schedules import build_schedule, distinct
from stable_audio.diffusion.shift import SHIFTS, DistributionShift, FluxShift, LogSNRShift
from stable_audio.diffusion.spaces import FLOW
from tests.diffusion.gaussian import ideal, normal

PER_ITEM = sorted(name for name, spec in SAMPLERS.items() if spec.per_item)
LOGSNR = LogSNRShift(anchor_length=20, anchor_logsnr=-6, rate=1.0, logsnr_end=1.5)


@pytest.mark.parametrize("name", sorted(SHIFTS))
def test_lengths_of_items_shift_as_each_alone_and_keep_the_ends(name: str) -> None:
    options = {"flux": {"alpha_min": 1.5, "alpha_max": 4.0}}.get(name, {})
    shift, t = SHIFTS[name](**options), torch.tensor([0.0, 0.2, 0.5, 1.0])
    lengths = torch.tensor([1, 300, 2000, 9000])
    found = shift(t, lengths)
    assert torch.allclose(found, torch.stack([shift(v, int(n)) for v, n in zip(t, lengths)]), atol=1e-6)
    assert found.dtype == t.dtype
    assert found[0] == 0
    assert found[-1] == 1


def test_flux_is_the_published_form_with_a_geometric_factor() -> None:
    shift = FluxShift(min_length=8, max_length=512, alpha_min=2.0, alpha_max=8.0)
    for length, a in [(8, 2.0), (64, 4.0), (512, 8.0), (4, 2.0), (1000, 8.0)]:
        t = torch.tensor([0.3], dtype=torch.float64)
        assert shift(t, length).item() == pytest.approx(a * 0.3 / (1 + (a - 1) * 0.3))


def test_logsnr_is_linear_and_starts_one_rate_lower_at_twice_the_length() -> None:
    t = torch.tensor([0.25, 0.75], dtype=torch.float64)
    for length, start in [(20, -6.0), (40, -7.0), (5, -4.0), (0, -6 + math.log2(20))]:
        shifted = LOGSNR(t, length)
        ratio = torch.log((1 - shifted) / shifted)
        assert ratio.tolist() == pytest.approx([1.5 + share * (start - 1.5) for share in (0.25, 0.75)])


def test_as_many_items_as_levels_are_no_pairs() -> None:
    """stable-audio-3 takes the lengths of 5 items for those of the 5 levels of 4 steps."""
    levels = build_schedule("shifted", 4, space=FLOW, shift=LOGSNR, length=[4, 8, 20, 40, 200])
    assert levels.shape == (5, 5)
    alone = [build_schedule("shifted", 4, space=FLOW, shift=LOGSNR, length=n) for n in (4, 8, 20, 40, 200)]
    assert torch.equal(levels, torch.stack(alone))


def test_a_shifted_schedule_starts_at_sigma_max() -> None:
    assert (
        build_schedule("shifted", 4, space=FLOW, shift=DistributionShift(), length=9, sigma_max=0.5)[0] == 0.5
    )
    unshifted = build_schedule("shifted", 4, space=FLOW, sigma_max=0.5)
    assert unshifted.tolist() == [0.5, 0.375, 0.25, 0.125, 0.0]


def test_distinct_rows_never_rise() -> None:
    rows = torch.tensor([[0.5, 0.6, 0.4, 0.0], [0.9, 0.5, 0.2, 0.0]])
    assert torch.equal(distinct(rows), torch.tensor([[0.5, 0.5, 0.4, 0.0], [0.9, 0.5, 0.2, 0.0]]))


@pytest.mark.parametrize("objective_name", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", PER_ITEM)
def test_an_item_is_sampled_as_with_its_schedule_alone(name: str, objective_name: str) -> None:
    objective, lengths = OBJECTIVES[objective_name](), [4, 30, 200]
    noise, init = normal(3, 2, 6), normal(3, 2, 6, seed=4)

    def sampled(items: slice, length: object) -> torch.Tensor:
        return sample(
            ideal(objective),
            noise[items],
            objective=objective,
            noise=SeededNoise([5, 6, 7][items]),
            sampler=name,
            schedule="shifted",
            steps=5,
            sigma_max=0.9,
            shift=LOGSNR,
            lengths=length,  # type: ignore[arg-type]
            init=init[items],
        )

    together = sampled(slice(None), lengths)
    for i, length in enumerate(lengths):
        assert torch.allclose(together[i], sampled(slice(i, i + 1), [length])[0], atol=1e-6)
        assert torch.allclose(together[i], sampled(slice(i, i + 1), length)[0], atol=2e-3)
    assert not torch.allclose(together[0], sampled(slice(0, 1), 200)[0], atol=2e-3)


def test_steps_of_no_size_change_nothing() -> None:
    objective, steps = OBJECTIVES["rectified_flow"](), [0.9, 0.5, 0.5, 0.2, 0.0]
    for name in ("euler", "dpmpp", "rk4"):
        found = [
            sample(
                ideal(objective),
                normal(1, 2, 6),
                objective=objective,
                noise=SeededNoise([0]),
                sampler=name,
                schedule=torch.tensor([levels], dtype=torch.float64),
            )
            for levels in (steps, [0.9, 0.5, 0.2, 0.0])
        ]
        assert found[0].isfinite().all()
        if name != "dpmpp":  # it steps from one estimate fewer there
            assert torch.allclose(*found, atol=1e-6)


def test_a_sampler_without_schedules_per_item_says_which_have_them() -> None:
    objective = OBJECTIVES["rectified_flow"]()
    with pytest.raises(
        ValueError,
        match="'ddim' walks one schedule for all items; euler, dpmpp, heun, euler-cfgpp",
    ):
        sample(
            ideal(objective),
            normal(2, 2, 6),
            objective=objective,
            noise=SeededNoise([0, 1]),
            sampler="ddim",
            schedule="shifted",
            shift=LOGSNR,
            lengths=[3, 4],
        )
