"""Variants of guidance against their published formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.guidance_options import GuidanceOptions
from stable_audio.diffusion.guidance_schedules import GUIDANCE_SCHEDULES, share_at
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.types import Conditioning, Slot
from tests.diffusion.gaussian import normal

X, T = normal(3, 4, 6), torch.tensor([0.9, 0.5, 0.2])
FLOW = OBJECTIVES["rectified_flow"]()


class Network:
    """A nonlinear function of every slot; null tokens are zeros, the global vector has no null."""

    default_scale_phi = 0.0
    masks_attention = False
    droppable = (Slot.CROSS_ATTN, Slot.PREPEND)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.batches.append(len(x))
        y = torch.sin(x + t.view(-1, 1, 1))
        for field, gain in (("cross_attn", 1.0), ("prepend", 2.0)):
            value = getattr(cond, field)
            if value is not None:
                y = y + gain * torch.tanh(value.mean(1).unsqueeze(-1) * (1 + x))
        if cond.global_cond is not None:
            y = y + torch.sin(cond.global_cond.unsqueeze(-1) + x)
        return y if cond.local_add is None else y + cond.local_add

    def null(self, cond: Conditioning) -> Conditioning | None:
        fields = ("cross_attn", "prepend")
        zeros = {f: torch.zeros_like(getattr(cond, f)) for f in fields if getattr(cond, f) is not None}
        return cond.replace(**zeros) if zeros else None

    def drop(self, cond: Conditioning, keep: dict[Slot, Tensor]) -> Conditioning:
        raise NotImplementedError

    def prepare(self, cond: Conditioning) -> Conditioning:
        return cond


COND = Conditioning(
    cross_attn=normal(3, 5, 4, seed=1), prepend=normal(3, 2, 4, seed=2), global_cond=normal(3, 4, seed=3)
)
NETWORK = Network()


def run(cond: Conditioning) -> Tensor:
    return NETWORK(X, T, cond)


C, U = run(COND), run(Network().null(COND) or COND)


def guided(
    objective: Any = FLOW, *, x: Tensor = X, t: Tensor = T, cond: Any = COND, **options: Any
) -> Tensor:
    return Guidance(Network(), objective, cond, **options)(x, t).value


def test_every_item_has_its_own_scale() -> None:
    found = guided(cfg_scale=(1.0, 3.0, 0.0))
    assert torch.allclose(found[0], C[0], atol=1e-6)
    for i, scale in enumerate((1.0, 3.0, 0.0)):
        alone = Conditioning(**{k: v[i : i + 1] for k, v in vars(COND).items() if v is not None})
        expected = guided(x=X[i : i + 1], t=T[i : i + 1], cond=alone, cfg_scale=scale)
        assert torch.allclose(found[i : i + 1], expected, atol=1e-5)
    with pytest.raises(ValueError, match="found 2 values of cfg_scale for 3 clips"):
        guided(cfg_scale=(1.0, 2.0))


@pytest.mark.parametrize("options", [{"apg_scale": 0.7}, {"cfg_zero_star": True}, {"cfg_schedule": "linear"}])
def test_scales_of_items_go_with_other_settings(options: dict[str, Any]) -> None:
    scales = (1.5, 3.0, 0.0)
    found = guided(cfg_scale=scales, **options)
    for i, scale in enumerate(scales):
        assert torch.allclose(found[i], guided(cfg_scale=scale, **options)[i], atol=1e-6)


@pytest.mark.parametrize("name", GUIDANCE_SCHEDULES)
def test_shares_by_name_have_the_mean_one_and_grow_towards_the_data(name: str) -> None:
    times = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    share = share_at(name, times)
    assert float(share.mean()) == pytest.approx(1.0, abs=1e-6)
    assert (share.diff() < 0).all()


def test_the_weight_follows_the_schedule() -> None:
    w = (1 + 4 * 2 * (1 - T)).view(-1, 1, 1)
    assert torch.allclose(guided(cfg_scale=5.0, cfg_schedule="linear"), U + w * (C - U), atol=1e-5)
    points = ((1.0, 0.0), (0.5, 1.0), (0.3, 0.4))  # beyond 0.3 the share stays
    shares = torch.tensor([0.2, 1.0, 0.4])
    assert torch.allclose(share_at(points, T), shares, atol=1e-6)
    w = (1 + 4 * shares).view(-1, 1, 1)
    assert torch.allclose(guided(cfg_scale=5.0, cfg_schedule=points), U + w * (C - U), atol=1e-5)


@pytest.mark.parametrize("name", ["rectified_flow", "v", "epsilon", "x0"])
def test_momentum_adds_earlier_differences_of_estimates(name: str) -> None:
    """Sadat et al. 2024, algorithm 1: average <- d + beta average, with d of estimates of x0; then guide."""
    objective, beta, w = OBJECTIVES[name](), -0.6, 4.0
    guide = Guidance(Network(), objective, COND, cfg_scale=w, apg_momentum=beta)
    average: Tensor | float = 0.0
    for step, shift in enumerate((0.0, 0.1, 0.25)):
        x, t = X + step, T - shift / 2
        found = objective.denoised(guide(x, t).value.double(), x.double(), t.double())
        outputs = [Network()(x, t, cond).double() for cond in (COND, Network().null(COND))]
        c0, u0 = (objective.denoised(y, x.double(), t.double()) for y in outputs)
        average = (c0 - u0) + beta * average
        assert torch.allclose(found, c0 + (w - 1) * average, atol=1e-4)
    assert guide(X, torch.zeros(3)).value.isfinite().all()


@pytest.mark.parametrize("padded", [False, True])
def test_cfg_zero_star_is_the_formula(padded: bool) -> None:
    """Fan et al. 2025: v = s u + w (c - s u) with s = <c, u> / |u|^2 of each item."""
    mask = torch.arange(6).expand(3, -1) < torch.tensor([[6], [4], [2]]) if padded else None
    found = guided(cond=COND.replace(padding_mask=mask), cfg_scale=3.0, cfg_zero_star=True)
    valid = torch.ones(3, 1, 6) if mask is None else mask[:, None].float()
    for i in range(3):
        c, u = C[i], U[i]
        s = float((c * u * valid[i]).sum() / (u * u * valid[i]).sum())
        assert torch.allclose(found[i], s * u + 3.0 * (c - s * u), atol=1e-5)


def test_zero_init_holds_still_at_the_start() -> None:
    found = Guidance(Network(), FLOW, COND, cfg_scale=3.0, zero_init=0.1)(X, torch.tensor([1.0, 0.91, 0.9]))
    assert not found.value[:2].any()
    assert not found.uncond[:2].any()
    assert found.value[2].any()
    assert not guided(cfg_scale=1.0, zero_init=0.2)[0].any()


@pytest.mark.parametrize("option", [{"cfg_zero_star": True}, {"zero_init": 0.04}])
def test_cfg_zero_is_for_flows(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"velocity of flows.*predicts 'v'"):
        guided(OBJECTIVES["v"](), cfg_scale=3.0, **option)


def test_a_weaker_model_steers_by_its_own_weight() -> None:
    """Karras et al. 2024, equation 3: D = D_weak + w (D - D_weak); with CFG both differences are added."""
    weak = torch.cos(X)
    calls: list[int] = []

    def guide(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.cos(x)

    found = guided(guide=guide, guide_scale=2.5)
    assert torch.allclose(found, weak + 2.5 * (C - weak), atol=1e-5)
    both = guided(guide=guide, guide_scale=2.5, cfg_scale=4.0)
    assert torch.allclose(both, U + 4.0 * (C - U) + 1.5 * (C - weak), atol=1e-5)
    assert torch.equal(guided(guide=guide), C)
    assert calls == [3, 3]  # not without guide_scale
    inside = guided(guide=guide, guide_scale=2.5, cfg_interval=(0.0, 0.1))
    assert torch.equal(inside, C)


def test_slots_have_weights_of_their_own() -> None:
    """Brooks et al. 2023, equation 3: e(0, 0) + s_1 (e(1, 0) - e(0, 0)) + s_2 (e(1, 1) - e(1, 0))."""
    zeros = {name: torch.zeros_like(getattr(COND, name)) for name in ("cross_attn", "prepend")}
    none, one = run(COND.replace(**zeros)), run(COND.replace(cross_attn=zeros["cross_attn"]))
    expected = none + 2.0 * (one - none) + 6.0 * (C - one)
    network = Network()
    named = Guidance(network, FLOW, COND, slot_scales={"prepend": 2.0, "cross_attn": 6.0})(X, T)
    assert torch.allclose(named.value, expected, atol=1e-5)
    assert torch.allclose(named.uncond, none, atol=1e-6)
    assert network.batches == [9]
    rest = guided(cfg_scale=2.0, slot_scales={"cross_attn": 6.0})
    assert torch.allclose(rest, expected, atol=1e-5)
    plain = guided(slot_scales={"prepend": 3.0, "cross_attn": 3.0})
    assert torch.allclose(plain, guided(cfg_scale=3.0), atol=1e-5)


def test_a_model_that_drops_nothing_has_no_weights_for_slots() -> None:
    with pytest.raises(ValueError, match="nothing to put in place of its conditioning"):
        guided(cond=Conditioning(global_cond=COND.global_cond), slot_scales={"global": 2.0})


def test_a_slot_without_null_is_refused_unless_a_negative_takes_its_place() -> None:
    with pytest.raises(ValueError, match="'global'; it has for cross_attn, prepend"):
        guided(slot_scales={"global": 2.0})
    negative = COND.replace(global_cond=normal(3, 4, seed=9))
    options = {"slot_scales": {"global": 4.0}, "cfg_scale": 2.0, "negative_slots": ("global",)}
    found = guided(negative=negative, **options)
    lowest = COND.replace(
        cross_attn=torch.zeros(3, 5, 4), prepend=torch.zeros(3, 2, 4), global_cond=negative.global_cond
    )
    middle = COND.replace(global_cond=negative.global_cond)
    expected = run(lowest) + 2.0 * (run(middle) - run(lowest)) + 4.0 * (C - run(middle))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("slots", [("cross_attn",), ("prepend", "global"), ("all",), None])
def test_negative_conditioning_in_every_slot(slots: tuple[str, ...] | None) -> None:
    cond = COND.replace(local_add=normal(3, 4, 6, seed=4))
    negative = Conditioning(
        cross_attn=normal(3, 5, 4, seed=5),
        prepend=normal(3, 2, 4, seed=6),
        global_cond=normal(3, 4, seed=7),
        local_add=normal(3, 4, 6, seed=8),
    )
    names = ("cross_attn",) if slots is None else ("cross_attn", "prepend", "global", "local_add")
    names = names if slots in (None, ("all",)) else slots
    fields = [Slot(name).field for name in names]
    expected = Network().null(cond).replace(**{f: getattr(negative, f) for f in fields})
    found = Guidance(Network(), FLOW, cond, cfg_scale=2.0, negative=negative, negative_slots=slots)(X, T)
    assert torch.allclose(found.uncond, run(expected), atol=1e-6)


def test_a_model_that_drops_nothing_can_be_steered_away_from_a_negative() -> None:
    cond = Conditioning(global_cond=COND.global_cond)
    negative = Conditioning(global_cond=normal(3, 4, seed=9))
    found = guided(cond=cond, cfg_scale=3.0, negative=negative, negative_slots=("global",))
    c, u = run(cond), run(negative)
    assert torch.allclose(found, u + 3.0 * (c - u), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cfg_schedule": "linea"}, "did you mean 'linear'"),
        ({"cfg_schedule": ((0.5, 1.0), (0.5, 2.0))}, "different t from 0 to 1"),
        ({"cfg_schedule": ((2.0, 1.0),)}, "from 0 to 1"),
        ({"cfg_schedule": ((0.5, -1.0),)}, "at least 0"),
        ({"cfg_schedule": ()}, "needs points"),
        ({"apg_momentum": 1.5}, "between -1 and 1, found 1.5"),
        ({"zero_init": 1.5}, "from 0 to 1, found 1.5"),
        ({"negative_slots": ("text",)}, "no slot 'text'; slots: cross_attn, global"),
        ({"slot_scales": {"all": 2.0}}, "name each slot"),
        ({"slot_scales": {"prompt": 2.0}}, "no slot 'prompt'"),
        ({"slot_scales": {"prepend": 2.0}, "cfg_zero_star": True}, "leave slot_scales out"),
    ],
)
def test_settings_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceOptions(**options).check_guidance()


def test_at_weight_one_nothing_else_is_computed() -> None:
    network = Network()
    Guidance(network, FLOW, COND, cfg_scale=(1.0, 1.0, 1.0), apg_momentum=0.5)(X, T)
    assert network.batches == [3]
    assert math.isclose(float(GuidanceOptions().guide_weight), 1.0)
