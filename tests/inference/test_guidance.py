"""Guidance of `generate`: weights of single clips, negative slots and a weaker model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.inference import generate
from stable_audio.model import DiffusionModel
from tests.inference import tiny

BELL, DRUM = {"prompt": "bell", "seconds_total": 0.6}, {"prompt": "drum", "seconds_total": 0.3}
WIND = {"prompt": "wind", "seconds_total": 0.1}


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return tiny.build(tiny.config())


@pytest.fixture(scope="module")
def weaker() -> DiffusionModel:
    values = tiny.config()
    values["model"]["diffusion"]["config"].update(embed_dim=16)
    return tiny.build(values)


def test_each_clip_of_a_batch_has_its_own_weight(model: DiffusionModel) -> None:
    scales = (1.0, 3.0, 6.0)
    together = generate(model, [BELL, DRUM, BELL], seeds=4, steps=3, cfg_scale=scales)
    for i, scale in enumerate(scales):
        alone = generate(model, [[BELL, DRUM, BELL][i]], seeds=4 + i, steps=3, cfg_scale=scale)
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)
    pairs = generate(model, [BELL, DRUM, BELL], seeds=4, steps=3, cfg_scale=scales, batch_size=2)
    assert torch.allclose(together, pairs, atol=1e-5)
    listed = generate(model, [BELL, DRUM, BELL], seeds=4, steps=3, cfg_scale=[*scales])
    assert torch.equal(listed, together)
    with pytest.raises(ValueError, match="found 3 values of cfg_scale for 2 clips"):
        generate(model, [BELL, DRUM], steps=1, cfg_scale=scales)


def test_a_guide_steers_away_from_what_it_would_make(model: DiffusionModel, weaker: DiffusionModel) -> None:
    """At weight 0 the guide alone is sampled, at 1 the model, and in between the mean, in one step."""
    one: dict[str, Any] = {"steps": 1, "cfg_scale": 1.0, "seeds": 3, "return_latents": True}
    plain, other = generate(model, [BELL], **one), generate(weaker, [BELL], **one)
    guided = {w: generate(model, [BELL], guide=weaker, guide_scale=w, **one) for w in (0.0, 0.5, 1.0, 3.0)}
    assert torch.allclose(guided[0.0], other, atol=1e-5)
    assert torch.allclose(guided[0.5], (plain + other) / 2, atol=1e-5)
    assert torch.equal(guided[1.0], plain)
    assert torch.allclose(guided[3.0], other + 3 * (plain - other), atol=1e-4)
    assert not weaker.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diffusion_objective": "v"}, "the objective of the model, which is rectified_flow; it has v"),
        ({"patch": 8}, "channels of the latents of the model, which is 16; it has 8"),
    ],
)
def test_a_guide_of_other_latents_is_refused(
    model: DiffusionModel, change: dict[str, Any], message: str
) -> None:
    values = tiny.config(change.get("diffusion_objective", "rectified_flow"))
    if "patch" in change:
        values["model"]["io_channels"] = change["patch"]
        values["model"]["pretransform"]["config"]["patch_size"] = change["patch"]
        values["model"]["diffusion"]["config"]["io_channels"] = change["patch"]
    with pytest.raises(ValueError, match=message):
        generate(model, [BELL], guide=tiny.build(values), guide_scale=2.0, steps=1)


def test_a_guide_and_its_weight_belong_together(model: DiffusionModel, weaker: DiffusionModel) -> None:
    with pytest.raises(ValueError, match="give one as guide"):
        generate(model, [BELL], guide_scale=2.0, steps=1)
    with pytest.raises(ValueError, match="give guide_scale"):
        generate(model, [BELL], guide=weaker, steps=1)


def test_negative_conditioning_reaches_the_slots_that_are_named(model: DiffusionModel) -> None:
    """At weight 0 what is sampled is the negative alone: the clip of the same slots by itself."""
    common: dict[str, Any] = {"steps": 2, "seeds": 5}
    negative = generate(
        model, [BELL], negative_conditioning=WIND, negative_slots=("all",), cfg_scale=0.0, **common
    )
    assert torch.allclose(negative, generate(model, [WIND], cfg_scale=1.0, **common), atol=1e-5)
    text_only = generate(model, [BELL], negative_conditioning=WIND, cfg_scale=0.0, **common)
    assert (negative - text_only).abs().max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"cfg_schedule": "cosine"},
        {"cfg_schedule": ((1.0, 0.0), (0.5, 1.0))},
        {"apg_momentum": -0.5, "apg_scale": 1.0},
        {"cfg_zero_star": True},
        {"zero_init": 0.5},
        {"slot_scales": {"cross_attn": 6.0}},
    ],
)
def test_every_setting_changes_the_clip(model: DiffusionModel, settings: dict[str, Any]) -> None:
    plain = generate(model, [BELL], steps=3, cfg_scale=4.0)
    other = generate(model, [BELL], steps=3, cfg_scale=4.0, **settings)
    assert (plain - other).abs().max() > 1e-4
