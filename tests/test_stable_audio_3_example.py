"""The config of docs/examples/stable_audio_3.md has the keys of the published models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stable_audio.config import load_config

FOLDER = Path(__file__).parents[1] / "model_configs"
OWN = {"cache_latents", "batch_size", "max_steps", "gradient_clip_val", "ema"}
"""Keys of training that the small one has besides."""


def _read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("size", ["small", "medium"])
def test_training_has_the_same_machinery(size: str) -> None:
    large, small = _read(f"stable_audio_3/{size}")["training"], _read("quickstart/stable_audio_3")["training"]
    assert set(small) - OWN == set(large) - {"pre_encoded"}
    for key in ("mask_loss_weight", "loss_normalization", "ot_coupling", "timestep_sampler", "inpainting"):
        assert small[key] == large[key]


@pytest.mark.parametrize("size", ["small", "medium"])
def test_the_wiring_and_the_backbone_are_the_same_but_for_their_numbers(size: str) -> None:
    large, small = (
        _read(name)["model"]["diffusion"] for name in (f"stable_audio_3/{size}", "quickstart/stable_audio_3")
    )
    assert set(small) == set(large)
    assert set(small["config"]) == set(large["config"])
    for key in ("mask_padding_attention", "use_effective_length_for_schedule", "local_add_cond_ids"):
        assert small[key] == large[key]
    for key in ("norm_type", "norm_kwargs", "timestep_features_type", "global_cond_type"):
        assert small["config"][key] == large["config"][key]


def test_its_demos_make_parts_of_two_clips_anew() -> None:
    config = load_config(FOLDER / "quickstart" / "stable_audio_3.json")
    assert config.training.demo.inpaint_kinds == ["spans", "causal"]
