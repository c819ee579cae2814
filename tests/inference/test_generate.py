from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch

from stable_audio.diffusion.samplers import SAMPLERS, StepInfo
from stable_audio.inference import Sampling, generate
from stable_audio.inference.generation.audio_inputs import AudioInputs, frame_mask, inpaint_tensors
from stable_audio.inference.generation.generate import NoiseSources
from stable_audio.inference.rendering.steering import Steering
from stable_audio.model import DiffusionModel
from tests.inference import tiny

BELL, DRUM = {"prompt": "bell", "seconds_total": 0.6}, {"prompt": "drum", "seconds_total": 0.3}
FEW: dict[str, Any] = {"steps": 3, "cfg_scale": 2.0}


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return tiny.build(tiny.config())


@pytest.fixture(scope="module")
def v_model() -> DiffusionModel:
    return tiny.build(tiny.config("v"))


def test_shape_type_and_repetition(model: DiffusionModel) -> None:
    audio = generate(model, [BELL, DRUM], seeds=3, **FEW)
    assert audio.shape == (2, 1, tiny.SIZE)
    assert audio.dtype == torch.float32
    assert torch.equal(audio, generate(model, [BELL, DRUM], seeds=3, **FEW))
    latents = generate(model, [BELL], return_latents=True, **FEW)
    assert latents.shape == (1, tiny.PATCH, tiny.SIZE // tiny.PATCH)


def test_conditioning_seed_and_guidance_matter(model: DiffusionModel) -> None:
    first = generate(model, [BELL], seeds=1, **FEW)
    others = [
        generate(model, [DRUM], seeds=1, **FEW),
        generate(model, [BELL], seeds=2, **FEW),
        generate(model, [BELL], seeds=1, steps=3, cfg_scale=4.0),
        generate(model, [BELL], seeds=1, steps=4, cfg_scale=2.0),
        generate(model, [BELL], seeds=1, negative_conditioning={"prompt": "wind"}, **FEW),
        generate(model, [BELL], seeds=1, scale_phi=0.9, **FEW),
        generate(model, [BELL], seeds=1, cfg_interval=(0.0, 0.4), **FEW),
    ]
    assert all((first - other).abs().max() > 1e-4 for other in others)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_clip_depends_on_its_seed_alone(v_model: DiffusionModel, name: str) -> None:
    """Not on its neighbours, its place or the batch size; adaptive steps and random draws included."""
    settings: dict[str, Any] = {"steps": 5, "cfg_scale": 1.5, "sampler": name, "sigma_max": 20.0}
    if name == "k-dpm-adaptive":
        settings["sampler_options"] = {"rtol": 0.3, "atol": 0.3}
    together = generate(v_model, [BELL, DRUM, BELL], seeds=[5, 6, 7], **settings)
    alone = generate(v_model, [BELL], seeds=[7], **settings)
    pairs = generate(v_model, [BELL, DRUM, BELL], seeds=[5, 6, 7], batch_size=2, **settings)
    assert torch.allclose(together[2:], alone, atol=2e-4)
    assert torch.allclose(together, pairs, atol=2e-4)
    assert (together[0] - together[2]).abs().max() > 1e-3


def test_length_is_rounded_up_for_the_network_and_cut(model: DiffusionModel) -> None:
    assert generate(model, [BELL], sample_size=101, **FEW).shape == (1, 1, 101)
    assert generate(model, [BELL], sample_size=1000, **FEW).shape == (1, 1, 1000)


def test_unconditional_models(model: DiffusionModel) -> None:
    uncond = tiny.build(tiny.uncond_config())
    audio = generate(uncond, seeds=[1, 2, 3], steps=3)
    assert audio.shape == (3, 1, tiny.SIZE)
    assert torch.allclose(audio[1:2], generate(uncond, seeds=[2], steps=3), atol=1e-5)


def test_init_audio_is_kept_at_low_noise(model: DiffusionModel) -> None:
    init = torch.sin(torch.arange(tiny.SIZE) * 0.05)[None]
    distance = [
        float(
            (generate(model, [BELL], init_audio=init, init_noise_level=level, **FEW)[0] - init).abs().mean()
        )
        for level in (0.02, 0.9)
    ]
    assert distance[0] < 0.1 < distance[1]


def test_init_audio_is_fitted_to_the_model(model: DiffusionModel) -> None:
    settings: dict[str, Any] = {"init_noise_level": 0.01, **FEW}
    stereo = torch.ones(2, tiny.SIZE) * torch.tensor([[0.2], [0.4]])
    out = generate(model, [BELL], init_audio=stereo, **settings)
    assert out.mean() == pytest.approx(0.3, abs=0.05)
    short = generate(model, [BELL], init_audio=torch.full((1, 160), 0.5), init_sample_rate=500, **settings)
    assert short[0, 0, 40:280].mean() == pytest.approx(0.5, abs=0.05)
    assert short[0, 0, 360:].abs().mean() < 0.1
    each = generate(
        model, [BELL, BELL], init_audio=torch.stack([torch.zeros(1, 640), torch.ones(1, 640)]), **settings
    )
    assert each.mean((1, 2)).tolist() == pytest.approx([0.0, 1.0], abs=0.1)
    with pytest.raises(ValueError, match="init_audio: found 3 of them for 2 items"):
        generate(model, [BELL, BELL], init_audio=torch.zeros(3, 1, 640), **settings)


def test_inpainting_reads_mask_and_audio() -> None:
    inpaint = tiny.build(tiny.config(inpaint=True))
    audio, mask = torch.ones(1, tiny.SIZE), torch.ones(tiny.SIZE)
    mask[320:] = 0
    plain = generate(inpaint, [BELL, DRUM], **FEW)
    masked = generate(inpaint, [BELL, DRUM], inpaint_audio=audio, inpaint_mask=mask, **FEW)
    rows = generate(inpaint, [BELL, DRUM], inpaint_audio=audio, inpaint_mask=mask.expand(2, -1), **FEW)
    assert (plain - masked).abs().max() > 1e-3
    assert torch.equal(masked, rows)
    alone = generate(inpaint, [DRUM], seeds=1, inpaint_audio=audio, inpaint_mask=mask, **FEW)
    assert torch.allclose(masked[1:], alone, atol=1e-5)


@pytest.mark.parametrize("samples", [64, 61, 50, 49, 1])
@pytest.mark.parametrize("parts", [64, 61, 7, 4])
def test_inpainting_generates_every_frame_that_the_region_touches(samples: int, parts: int) -> None:
    """Against the definition, part by part: frames of 16 samples, parts of samples / parts of them."""
    frames, ratio = 4, 16
    for start in range(parts):
        for end in range(start + 1, parts + 1):
            mask = torch.ones(parts)
            mask[start:end] = 0
            found = frame_mask(mask, samples=samples, ratio=ratio, frames=frames)[0].tolist()
            for frame in range(frames):
                touches = any(
                    Fraction(part * samples, parts) < (frame + 1) * ratio
                    and Fraction((part + 1) * samples, parts) > frame * ratio
                    for part in range(start, end)
                )
                behind = frame * ratio >= samples
                assert found[frame] == (0.0 if touches or (behind and end == parts) else 1.0)


def test_a_region_stays_where_it_is_when_the_length_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    inpaint = tiny.build(tiny.config(inpaint=True))
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        "stable_audio.inference.generation.audio_inputs.inpaint_tensors",
        lambda *args: seen.append(args[2]) or inpaint_tensors(*args),
    )
    mask = torch.ones(1, 625)  # 40 frames of 16 samples, rounded up from 39.06
    mask[:, 307:390] = 0
    audio = torch.ones(1, 625)
    generate(inpaint, [BELL], inpaint_audio=audio, inpaint_mask=mask, sample_size=625, **FEW)
    kept = seen[0][0]
    assert kept.tolist() == [0.0 if 307 // 16 <= i <= 389 // 16 else 1.0 for i in range(40)]
    seen.clear()
    between = torch.ones(625)
    between[20:21] = 0  # a single sample
    generate(inpaint, [BELL], inpaint_audio=audio, inpaint_mask=between, sample_size=625, **FEW)
    assert seen[0][0].tolist() == [0.0 if i == 1 else 1.0 for i in range(40)]


def test_a_span_shorter_than_a_sample_still_generates_and_one_behind_the_clip_is_refused(
    model: DiffusionModel,
) -> None:
    steering = Steering(inpaint_audio=torch.zeros(1, 640), inpaint_spans=[(0.1001, 0.1002)])
    mask = steering.arguments(model, 640)["inpaint_mask"]
    assert (mask == 0).nonzero().flatten().tolist() == [100]
    late = Steering(inpaint_audio=torch.zeros(1, 640), inpaint_spans=[(0.7, 0.8)])
    with pytest.raises(ValueError, match=r"0\.7 to 0\.8 s starts after the end of the clip of 0\.64 s"):
        late.arguments(model, 640)


def test_inpainting_needs_its_model(model: DiffusionModel) -> None:
    with pytest.raises(ValueError, match="diffusion_cond_inpaint"):
        generate(model, [BELL], inpaint_mask=torch.ones(640), **FEW)


def test_distribution_shift_is_an_option_for_every_schedule_of_t(model: DiffusionModel) -> None:
    values = tiny.config()
    values["model"]["diffusion"]["distribution_shift_options"] = {"min_length": 8, "max_length": 64}
    shifted_model = tiny.build(values)
    settings: dict[str, Any] = {"steps": 4, "cfg_scale": 1.0}
    default = generate(shifted_model, [BELL], **settings)
    assert torch.equal(default, generate(model, [BELL], **settings))
    on = generate(shifted_model, [BELL], schedule="linear", dist_shift=True, **settings)
    off = generate(shifted_model, [BELL], schedule="linear", **settings)
    assert (on - off).abs().max() > 1e-3
    rk4 = [generate(shifted_model, [BELL], sampler="rk4", dist_shift=d, **settings) for d in (None, True)]
    assert torch.equal(*rk4)


def test_the_model_is_left_as_it_was(model: DiffusionModel) -> None:
    model.train()
    modes = [m.training for m in model.modules()]
    generate(model, [BELL], **FEW)
    assert [m.training for m in model.modules()] == modes
    model.eval()
    assert not torch.is_inference(generate(model, [BELL], **FEW))


def test_half_precision_backbone(model: DiffusionModel) -> None:
    half = tiny.build(tiny.config())
    half.backbone.to(torch.bfloat16)
    found = generate(half, [BELL], **FEW)
    assert found.dtype == torch.float32
    assert torch.allclose(found, generate(model, [BELL], **FEW), atol=0.1)


def test_callback_sees_every_step(model: DiffusionModel) -> None:
    seen: list[StepInfo] = []
    generate(model, [BELL, DRUM], callback=seen.append, batch_size=1, **FEW)
    assert [s.i for s in seen] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conditioning": [{"prompt": "bell"}]},
            r"lacks \['seconds_total'\].*needs \['prompt', 'seconds_total'\]",
        ),
        ({"conditioning": BELL}, "found a single dict"),
        ({"conditioning": []}, "empty list"),
        ({"seeds": [1, 2]}, "found 2 seeds for 1 clips"),
        ({"steps": 0}, "steps must be at least 1, found 0"),
        ({"sampler": "eueler"}, "did you mean 'euler'"),
        ({"sampler_options": {"eta": 1.0}}, "no option"),
        ({"sample_size": 0}, "sample_size must be at least 1, found 0"),
        ({"negative_conditioning": [{}, {}]}, "found 2 negative conditionings for 1 clips"),
    ],
)
def test_mistakes_are_named(model: DiffusionModel, change: dict[str, Any], message: str) -> None:
    arguments = {"conditioning": [BELL], **FEW, **change}
    with pytest.raises(ValueError, match=message):
        generate(model, arguments.pop("conditioning"), **arguments)


def test_settings_follow_the_objective(model: DiffusionModel, v_model: DiffusionModel) -> None:
    flow, v = Sampling().resolved(model.objective), Sampling().resolved(v_model.objective)
    assert (flow.sampler, flow.schedule, v.sampler) == ("euler", "logsnr", "dpmpp-2m-sde")
    assert v.options["eta"] == 1.0


def test_settings_in_one_object_or_as_keywords(model: DiffusionModel) -> None:
    settings: dict[str, Any] = {"steps": 3, "cfg_scale": 2.0, "scale_phi": 0.5, "sampler": "k-heun"}
    expected = generate(model, [BELL], **settings)
    assert torch.equal(generate(model, [BELL], sampling=Sampling(**settings)), expected)
    other = Sampling(**{**settings, "steps": 5})
    assert torch.equal(generate(model, [BELL], sampling=other, steps=3), expected)
    assert Sampling().with_keywords(sampler_options={"eta": 0.5}) == Sampling(options={"eta": 0.5})


def test_sounds_and_draws_in_one_object_or_as_keywords(model: DiffusionModel) -> None:
    sounds: dict[str, Any] = {"init_audio": torch.ones(1, 1, tiny.SIZE), "init_noise_level": 0.5}
    start = torch.ones(1, tiny.PATCH, tiny.SIZE // tiny.PATCH)
    expected = generate(model, [BELL], start_noise=start, **sounds, **FEW)
    whole = generate(
        model, [BELL], audio_inputs=AudioInputs(**sounds), draws=NoiseSources(start_noise=start), **FEW
    )
    assert torch.equal(whole, expected)
    assert not torch.equal(generate(model, [BELL], start_noise=start, **FEW), expected)


def test_an_unknown_keyword_is_refused_with_the_nearest_name(model: DiffusionModel) -> None:
    with pytest.raises(TypeError, match=r"'stepz' is no setting of sampling.*did you mean 'steps'\?"):
        generate(model, [BELL], stepz=3)


def test_a_prompt_alone_is_enough() -> None:
    model = tiny.build(tiny.config())
    whole = {"prompt": "bell", "seconds_total": tiny.SIZE / tiny.RATE}
    expected = generate(model, [whole], steps=2)
    assert torch.equal(generate(model, "bell", steps=2), expected)
    assert torch.equal(generate(model, ["bell"], steps=2), expected)
    half = generate(model, ["bell"], steps=2, sample_size=tiny.SIZE // 2)
    timed = {"prompt": "bell", "seconds_total": tiny.SIZE / tiny.RATE / 2}
    assert torch.equal(half, generate(model, [timed], steps=2, sample_size=tiny.SIZE // 2))


def test_a_seed_of_minus_one_is_drawn_at_random() -> None:
    model = tiny.build(tiny.config())
    first, second = (generate(model, ["bell"], steps=1, seeds=-1) for _ in range(2))
    assert not torch.equal(first, second)
    mixed = generate(model, ["bell", "bell"], steps=1, seeds=[3, -1], batch_size=1)
    assert torch.equal(mixed[:1], generate(model, ["bell"], steps=1, seeds=[3]))


def test_negative_conditioning_without_guidance_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.build(tiny.config())
    generate(model, ["bell"], steps=1, negative_conditioning={"prompt": "wind"}, cfg_scale=1.0)
    assert "has no effect at cfg_scale 1" in caplog.text
