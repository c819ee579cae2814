"""Demos of the first clips of a run: their metadata as prompts, and parts of them made anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.config import load_config
from stable_audio.config.reporting.problems import ConfigError
from stable_audio.data.base import Batch
from stable_audio.model import DiffusionModel
from stable_audio.training.build import build_demos
from stable_audio.training.diffusion.batch_clips import masked_seconds
from tests.inference import tiny


def _config(inpaint: bool = True, *, pre_encoded: bool = False, **demo: Any) -> Any:
    values = tiny.config(inpaint=inpaint)
    values["training"] = {
        "learning_rate": 1e-4,
        "pre_encoded": pre_encoded,
        "demo": {"demo_cfg_scales": [1.0, 2.0], "demo_steps": 2, **demo},
    }
    return values


def _batches(model: DiffusionModel, *, latents: bool = False) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    shape = model.latent_shape if latents else (model.audio_channels, model.sample_size)
    items = [{"prompt": name, "seconds_total": 0.6} for name in ("bell", "drum", "bass", "pad")]
    audio = torch.randn(4, *shape, generator=generator)
    return [Batch(audio[:2], items[:2]), Batch(audio[2:], items[2:])]


def _demos(values: Any, *, latents: bool = False) -> tuple[list[Any], DiffusionModel, list[Batch]]:
    model: DiffusionModel = tiny.build(values)
    renderer, _ = build_demos(load_config(values)) or (None, 0)
    assert renderer is not None
    batches = _batches(model, latents=latents)
    for batch in batches:
        renderer.observe(batch)
    with torch.no_grad():
        return list(renderer.render(model)), model, batches


def test_metadata_of_the_first_clips_are_the_prompts() -> None:
    demos, _, _ = _demos(_config(demo_cond_from_batch=True, num_demos=3))
    assert [d.row for d in demos] == ["bell", "drum", "bass"] * 2
    assert {d.column for d in demos} == {"CFG 1", "CFG 2"}


@pytest.mark.parametrize("latents", [False, True])
def test_a_part_of_a_clip_is_made_anew_beside_the_original(latents: bool) -> None:
    demos, model, batches = _demos(
        _config(pre_encoded=latents, inpaint_demos=["causal", "spans"]), latents=latents
    )
    assert [d.column for d in demos] == ["original", "kept", "CFG 1", "CFG 2"] * 2
    assert demos[0].row.startswith("bell, made anew (causal): ")
    assert demos[4].row.startswith("drum, made anew (spans): ")
    kept, original = demos[1].audio, demos[0].audio
    silent = kept[0] == 0
    assert torch.equal(kept[:, ~silent], original[:, ~silent])
    start, end = (round(float(second) * tiny.RATE) for second in demos[0].row[26:-2].split(" to "))
    assert abs(int(silent.sum()) - (end - start)) <= 10  # the row has hundredths of a second
    assert silent[start + 5 : end - 5].all()
    data = batches[0].audio[0]
    expected = model.decode(data[None] / getattr(model.pretransform, "scale", 1.0))[0] if latents else data
    assert torch.allclose(demos[0].audio, expected, atol=1e-5)
    assert demos[2].audio.shape == demos[0].audio.shape
    again, _, _ = _demos(_config(pre_encoded=latents, inpaint_demos=["causal", "spans"]), latents=latents)
    assert torch.equal(again[2].audio, demos[2].audio)


@pytest.mark.parametrize(("value", "count"), [(0, 0), (True, 3), (False, 0), (4, 4), (["full"], 1)])
def test_a_number_or_kinds_of_masks_say_how_many(value: Any, count: int) -> None:
    demos, _, _ = _demos(_config(inpaint_demos=value, demo_cond=[{"prompt": "a", "seconds_total": 0.5}]))
    assert len(demos) == 2 + 4 * count


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="inpaint_demos: only model_type 'diffusion_cond_inpaint'"):
        load_config(_config(inpaint=False, inpaint_demos=2, demo_cond=[]))
    with pytest.raises(ConfigError, match=r"inpaint_demos\[0\]: found .span.; allowed: 'segments'"):
        load_config(_config(inpaint_demos=["span"]))


def test_many_spans_of_a_mask_are_named_in_short() -> None:
    mask = torch.tensor([0.0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    assert masked_seconds(mask, 1.2) == (
        "0.00 to 0.10 s, 0.20 to 0.40 s, 0.50 to 0.60 s, 0.70 to 0.80 s, and 2 more"
    )
    assert masked_seconds(torch.ones(4), 1.2) == "nothing"
