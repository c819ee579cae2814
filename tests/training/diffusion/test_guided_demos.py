"""Demos with guidance of their own, and with a weaker model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio import generate
from stable_audio.diffusion.settings import SamplingSettings
from stable_audio.model import DiffusionModel
from stable_audio.training.diffusion.demos import DiffusionDemos
from tests.inference import tiny

BELL = {"prompt": "bell", "seconds_total": 0.6}


@pytest.fixture(scope="module")
def model() -> DiffusionModel:
    return tiny.build(tiny.config())


def _demo(model: DiffusionModel, **settings: Any) -> torch.Tensor:
    renderer = DiffusionDemos([BELL], sample_rate=tiny.RATE, cfg_scales=[3.0], steps=2, **settings)
    (demo,) = renderer.render(model)
    return demo.audio


def test_settings_of_guidance_reach_the_demos(model: DiffusionModel) -> None:
    settings: dict[str, Any] = {"cfg_schedule": "linear", "apg_scale": 1.0, "zero_init": 0.1}
    found = _demo(model, sampling=SamplingSettings(**settings))
    expected = generate(model, [BELL], steps=2, cfg_scale=3.0, schedule="linear", seeds=0, **settings)[0]
    assert torch.equal(found, expected)
    assert not torch.equal(found, _demo(model))


def test_a_weaker_model_steers_the_demos(model: DiffusionModel, tmp_path: Path) -> None:
    values = tiny.config()
    values["model"]["diffusion"]["config"].update(embed_dim=16)
    weights, model_file = tiny.save(tmp_path, values)
    weights.with_name("model_config.json").write_text(model_file.read_text())
    found = _demo(model, sampling=SamplingSettings(guide_scale=2.0), guide=weights)
    guided = {"guide": tiny.build(values), "guide_scale": 2.0}
    expected = generate(model, [BELL], steps=2, cfg_scale=3.0, schedule="linear", seeds=0, **guided)[0]
    assert torch.allclose(found, expected, atol=1e-6)
    assert (found - _demo(model)).abs().max() > 1e-3
