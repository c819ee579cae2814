"""Editing by `generate`: parts made anew, long clips, loops, inversion, variations and interpolation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio import generate
from stable_audio.inference.generation.loops import decoded_loop, seconds_of_bars
from stable_audio.model import DiffusionModel
from tests.inference import tiny

BELL, DRUM = {"prompt": "bell", "seconds_total": 0.5}, {"prompt": "drum", "seconds_total": 0.5}
FEW: dict[str, Any] = {"steps": 3, "cfg_scale": 2.0, "inpaint_repeats": 2}
REGIONS = [(0.1, 0.2005), (0.43, math.inf)]


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return tiny.build(tiny.config())


@pytest.fixture(scope="module")
def inpaint_model() -> DiffusionModel:
    return tiny.build(tiny.config(inpaint=True))


def _noise(samples: int, seed: int = 0) -> Tensor:
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["model", "inpaint_model"])
@pytest.mark.parametrize("length", [{}, {"sample_size": 1300, "window_seconds": 0}, {"loop": True}])
def test_all_but_the_regions_returns_sample_for_sample(
    kind: str, length: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    net: DiffusionModel = request.getfixturevalue(kind)
    samples = length.get("sample_size", 640)
    sound = _noise(samples)
    arguments = {**FEW, **length, "inpaint_audio": sound, "inpaint_seconds": REGIONS, "seam_seconds": 0.01}
    clips = generate(net, [BELL, DRUM], **arguments)
    new = torch.zeros(samples, dtype=torch.bool)
    new[100:201] = new[430:] = True
    assert clips.shape == (2, 1, samples)
    assert torch.equal(clips[..., ~new], sound[None, :, ~new].expand(2, 1, -1))
    assert not torch.isclose(clips[..., new], sound[:, new]).all(-1).any()
    alone = generate(net, [DRUM], seeds=1, **arguments)
    assert torch.allclose(alone[0], clips[1], atol=1e-5)


def test_models_without_an_input_for_it_are_led_to_the_known_frames(model: DiffusionModel) -> None:
    """The frames of the kept part end exactly at those of the sound, those of the region do not."""
    sound = _noise(640)
    latents = generate(
        model, [BELL], inpaint_audio=sound, inpaint_seconds=[(0.16, 0.32)], return_latents=True, **FEW
    )
    assert model.pretransform is not None
    expected = model.pretransform.encode(sound[None])
    same = torch.isclose(latents, expected).all(1)[0]
    assert same.tolist() == [not 10 <= frame < 20 for frame in range(40)]
    more = generate(
        model,
        [BELL],
        inpaint_audio=sound,
        inpaint_seconds=[(0.16, 0.32)],
        return_latents=True,
        **{**FEW, "inpaint_repeats": 3},
    )
    assert not torch.allclose(more, latents)


def test_a_part_at_the_end_is_not_steered_to_the_silence_behind_the_clip(model: DiffusionModel) -> None:
    sound = _noise(400)
    latents = generate(
        model,
        [BELL],
        seconds=0.5,
        inpaint_audio=sound,
        inpaint_seconds=[(0.4, 0.5)],
        return_latents=True,
        **FEW,
    )
    assert latents.shape[-1] == 40
    assert float(latents[..., 25:].abs().amax(1).min()) > 0  # those behind 0.5 s are generated as well


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inpaint_seconds": [(0.1, 0.2)]}, "inpaint_seconds needs inpaint_audio"),
        ({"inpaint_audio": torch.zeros(1, 640)}, "and the parts of it to generate"),
        (
            {"inpaint_audio": torch.zeros(1, 640), "inpaint_seconds": [(0.2, 0.1)]},
            "0 <= START < END in seconds, found 0.2:0.1",
        ),
        ({"inversion_steps": 3}, "need init_audio"),
        ({"mix": 0.5}, "mix needs to_conditioning or to_seeds"),
        ({"mix": 1.5, "to_seeds": 3}, "mix must be from 0 to 1, found 1.5"),
        ({"mix": [0.5, 0.1], "to_seeds": 3}, "mix: found 2 values for 1 clips"),
        ({"to_conditioning": [BELL, BELL], "mix": 0.5}, "to_conditioning: found 2 values for 1 clips"),
        ({"window_seconds": -1.0}, "window_seconds must be at least 0"),
    ],
)
def test_mistakes_are_named(model: DiffusionModel, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(model, [BELL], **{**FEW, **changes})


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("kind", ["model", "inpaint_model"])
def test_the_network_sees_one_window_however_long_the_clip_is(
    kind: str, loop: bool, request: pytest.FixtureRequest
) -> None:
    net: DiffusionModel = request.getfixturevalue(kind)
    widths: list[tuple[int, ...]] = []
    handle = net.backbone.register_forward_hook(lambda module, inputs, output: widths.append(output.shape))
    try:
        clip = generate(net, [BELL], sample_size=2005, window_seconds=0.32, loop=loop, **FEW)
    finally:
        handle.remove()
    assert clip.shape[-1] == 2005
    assert {shape[-1] for shape in widths} == {20}
    assert len({shape[0] for shape in widths}) == 1


def test_a_window_of_the_length_of_the_clip_changes_nothing(model: DiffusionModel) -> None:
    assert torch.equal(generate(model, [BELL], window_seconds=0, **FEW), generate(model, [BELL], **FEW))


def test_a_loop_of_whole_frames_is_one_period_of_its_latents(model: DiffusionModel) -> None:
    time = torch.arange(640) / 640
    wave = torch.stack([torch.sin(2 * math.pi * 5 * time) + torch.cos(2 * math.pi * 12 * time)])[None]
    assert model.pretransform is not None
    latents = model.pretransform.encode(wave)
    assert torch.allclose(decoded_loop(model, latents, 640, chunked=False), wave, atol=1e-6)


@pytest.mark.parametrize("samples", [633, 647])
def test_a_loop_of_any_number_of_samples_has_no_jump(model: DiffusionModel, samples: int) -> None:
    wave = torch.sin(2 * math.pi * 5 * torch.arange(640) / 640)[None, None]
    assert model.pretransform is not None
    loop = decoded_loop(model, model.pretransform.encode(wave), samples, chunked=False)
    assert loop.shape[-1] == samples
    twice = torch.cat([loop, loop], dim=-1)
    # A step of the sine is at most 2 pi 5 / 640; over the fade of 20 samples a shift of 7 is made up for.
    assert float(twice.diff().abs().max()) < 2.5 * 2 * math.pi * 5 / 640


def test_bars_and_beats_are_an_exact_number_of_samples(model: DiffusionModel) -> None:
    assert seconds_of_bars(4, bpm=120) == 8.0
    assert seconds_of_bars(2, bpm=90, beats=3) == 4.0
    seconds = seconds_of_bars(1, bpm=437, beats=1)
    assert generate(model, [BELL], seconds=seconds, loop=True, **FEW).shape[-1] == round(60_000 / 437)
    with pytest.raises(ValueError, match="bpm must be above 0, found 0"):
        seconds_of_bars(1, bpm=0)


def test_only_as_many_latents_as_the_clip_needs(model: DiffusionModel) -> None:
    def frames(**length: Any) -> int:
        return int(generate(model, [BELL], return_latents=True, **length, **FEW).shape[-1])

    assert frames(seconds=0.3) == 40
    assert frames(seconds=0.3, short=True) == 19
    assert generate(model, [BELL], seconds=0.3, short=True, **FEW).shape[-1] == 300


def test_a_sound_led_back_to_its_noise_is_generated_again(model: DiffusionModel) -> None:
    sound = 0.3 * _noise(640)
    arguments: dict[str, Any] = {"init_audio": sound, "steps": 24, "cfg_scale": 1.0, "sampler": "rk4"}

    def error(conditioning: Any, **inversion: Any) -> float:
        clip = generate(model, conditioning, **arguments, **inversion)
        return float((clip[0] - sound).std() / sound.std())

    again = error([BELL], inversion_steps=24)
    assert again < 0.1
    assert error([BELL]) > 5 * again  # another noise gives another sound
    assert error([BELL], inversion_steps=24, init_conditioning=DRUM) > 2 * again
    assert error([DRUM], inversion_steps=24, init_conditioning="bell") > 2 * again


def test_clips_on_the_way_to_another_prompt_and_seed_end_at_both(model: DiffusionModel) -> None:
    clips = generate(
        model, [BELL] * 3, seeds=[5, 5, 5], to_conditioning=DRUM, to_seeds=9, mix=[0.0, 0.5, 1.0], **FEW
    )
    first, last = (generate(model, [item], seeds=[seed], **FEW)[0] for item, seed in ((BELL, 5), (DRUM, 9)))
    assert torch.allclose(clips[0], first, atol=1e-5)
    assert torch.allclose(clips[2], last, atol=1e-5)
    assert not torch.isclose(clips[1], clips[0]).all()
    assert not torch.isclose(clips[1], clips[2]).all()


def test_variations_are_as_far_from_a_take_as_asked(model: DiffusionModel) -> None:
    take, *others = generate(
        model, [BELL] * 4, seeds=[5] * 4, to_seeds=[9] * 4, mix=[0.0, 0.1, 0.3, 0.6], **FEW
    )
    distances = [float((other - take).std()) for other in others]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_a_sound_that_is_cut_off_goes_on_without_a_jump(model: DiffusionModel) -> None:
    """The seam begins at the end of the sound, behind which there is nothing to fade from."""
    sound = torch.sin(2 * math.pi * 0.031 * torch.arange(400))[None]
    edit: dict[str, Any] = {
        "inpaint_audio": sound,
        "inpaint_seconds": [(0.4, math.inf)],
        "seam_seconds": 0.08,
    }
    (clip,) = generate(model, [BELL], seconds=0.6, **edit, **FEW)
    expected = torch.sin(2 * math.pi * 0.031 * torch.arange(403))
    assert torch.equal(clip[:, :400], sound)
    # In the first three of at least 20 samples the new sound has a weight below 0.04, samples below 3.
    assert torch.allclose(clip[0, 400:403], expected[400:], atol=0.12)


def test_a_loop_begins_with_its_onset(model: DiffusionModel) -> None:
    """Of a click at the first sample nothing is faded, and none is heard before the end."""
    wave = torch.zeros(1, 1, 640)
    wave[..., 0] = 1.0
    assert model.pretransform is not None
    loop = decoded_loop(model, model.pretransform.encode(wave), 633, chunked=False)
    assert float(loop[0, 0, 0]) == 1.0
    assert float(loop[0, 0, 1:].abs().max()) == 0.0
