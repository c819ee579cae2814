"""Clips of different lengths by one model that hides padding from attention and shifts by length."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from stable_audio.inference import Sampling, generate
from stable_audio.inference.generation.lengths import sample_size_for, silenced
from stable_audio.inference.rendering.recipe import sampling_from, sampling_values
from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning
from tests.inference import tiny

FEW = {"steps": 2, "sampler": "euler", "cfg_scale": 2.0}


def _model(**keys: Any) -> DiffusionModel:
    values = tiny.config()
    values["model"]["diffusion"] |= {"diffusion_objective": "rectified_flow", **keys}
    return tiny.build(values)


def _variable() -> DiffusionModel:
    return _model(
        mask_padding_attention=True,
        use_effective_length_for_schedule=True,
        sampling_distribution_shift_options={"type": "logsnr", "anchor_length": 4, "rate": 1.0},
    )


def _items(*seconds: float) -> list[dict[str, Any]]:
    return [{"prompt": "bell", "seconds_total": value} for value in seconds]


def test_a_clip_does_not_depend_on_the_lengths_beside_it() -> None:
    model = _variable()
    whole = model.sample_size / model.sample_rate
    lengths = [whole, whole / 2, whole / 4]
    together = generate(model, _items(*lengths), headroom_seconds=0.0, seeds=3, **FEW)
    for i, value in enumerate(lengths):
        alone = generate(model, _items(value), headroom_seconds=0.0, seeds=3 + i, **FEW)
        assert torch.allclose(together[i], alone[0], atol=1e-5)
        assert (together[i, :, round(value * model.sample_rate) :] == 0).all()
        assert (together[i, :, : round(value * model.sample_rate)] != 0).any()


def test_a_clip_that_goes_on_behind_its_end_is_faded_out() -> None:
    model = _variable()
    length, rate = model.sample_size, model.sample_rate
    end, fade = length // 2, max(1, round(0.005 * rate))
    audio = torch.ones(2, 1, length)
    found = silenced(model, audio, _items(end / rate, length / rate))
    assert (found[0, 0, end:] == 0).all()
    assert (found[0, 0, : end - fade] == 1).all()
    faded = [math.sin(math.pi / 2 * k / fade) ** 2 for k in range(fade, 0, -1)]
    assert found[0, 0, end - fade : end].tolist() == pytest.approx(faded, abs=1e-6)
    assert torch.equal(found[1], audio[1])
    assert torch.equal(silenced(_model(), audio, _items(0.1, 0.1)), audio)


def test_the_schedule_is_that_of_the_length_of_the_clip() -> None:
    model, seen = _variable(), []
    whole = model.sample_size / model.sample_rate
    generate(model, _items(whole, whole / 2), callback=seen.append, **FEW)
    shift, frames = model.sampling_shift, model.latent_shape[-1]
    assert shift is not None
    expected = [shift(torch.tensor([0.5]), n).item() for n in (frames, -(-frames // 2))]
    assert seen[1].t.tolist() == pytest.approx(expected, abs=1e-6)
    model.use_effective_length = False
    generate(model, _items(whole, whole / 2), callback=seen.append, **FEW)
    assert seen[3].t == pytest.approx(expected[0], abs=1e-6)


def test_padding_behind_the_headroom_is_hidden() -> None:
    model, masks = _variable(), []
    ratio, rate = model.downsampling_ratio, model.sample_rate
    original = model.backbone.forward

    def forward(x: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        masks.append(cond.padding_mask)
        return original(x, t, cond)

    model.backbone.forward = forward  # type: ignore[method-assign]
    generate(model, _items(ratio / rate), headroom_seconds=2.5 * ratio / rate, **FEW)
    assert masks[0] is not None
    assert masks[0].sum(1).unique().tolist() == [3]
    masks.clear()
    generate(model, [{"prompt": "bell", "seconds_total": 0.5}], headroom_seconds=100.0, **FEW)
    assert masks[0] is None  # nothing to hide


def test_seconds_give_the_length_and_the_conditioning() -> None:
    for model in (_model(), _variable()):
        seconds = model.sample_size / model.sample_rate / 2
        by_seconds = generate(model, "bell", seconds=seconds, headroom_seconds=0.0, seeds=1, **FEW)
        assert by_seconds.shape[-1] == round(seconds * model.sample_rate)
        size = sample_size_for(model, seconds, 0.0)
        assert size == (model.sample_size // 2 if model.mask_padding_attention else model.sample_size)
        given = generate(model, _items(seconds), sample_size=size, headroom_seconds=0.0, seeds=1, **FEW)
        assert torch.equal(by_seconds, given[..., : by_seconds.shape[-1]])
    with pytest.raises(ValueError, match="seconds and sample_size both give"):
        generate(model, "bell", seconds=1.0, sample_size=64)


def test_models_with_a_shift_for_sampling_walk_it_with_projected_guidance() -> None:
    old, new = _model(), _model(sampling_distribution_shift_options=None)
    plain, shifted = Sampling().resolved_for(old), Sampling().resolved_for(new)
    assert (plain.schedule, plain.dist_shift, plain.apg_scale) == ("logsnr", False, None)
    assert (shifted.schedule, shifted.dist_shift, shifted.apg_scale) == ("shifted", True, 1.0)
    assert Sampling(dist_shift=False).resolved_for(new).schedule == "linear"
    assert Sampling(schedule="logsnr", apg_scale=0.0).resolved_for(new).dist_shift is False
    assert Sampling(sampler="ddim").resolved_for(new).schedule == "linear"
    for settings in (plain, shifted):
        stored = sampling_from(sampling_values(settings))
        assert stored.resolved_for(old if settings is plain else new) == settings


def test_recipes_of_earlier_clips_keep_their_digest() -> None:
    values = sampling_values(Sampling().resolved_for(_model()))
    assert not {"apg_scale", "cfg_norm_threshold", "headroom_seconds"} & set(values)


@pytest.mark.parametrize(
    "change", [{"apg_scale": 1.5}, {"cfg_norm_threshold": -1.0}, {"headroom_seconds": -1.0}]
)
def test_numbers_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Sampling(**change).check()  # type: ignore[arg-type]
