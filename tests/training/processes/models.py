"""Tiny models of every backbone, with everything random that a step has."""

from __future__ import annotations

import copy
from typing import Any

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from tests import tiny
from tests.training.starting.test_adapter_settings import model_of

UNCOND = [name for name, kind in UNCOND_BACKBONES.items() if BACKBONES.get(name) is not kind]
"""Backbones that only models without conditioning have."""

NAMES = [*BACKBONES, *(f"{name} without conditioning" for name in UNCOND)]


def config_of(name: str) -> dict[str, Any]:
    """A tiny model with a backbone of either registry."""
    training: dict[str, Any] = {"learning_rate": 1e-3, "ema": {"update_after_step": 2}}
    if name not in BACKBONES:
        return {**_without_conditioning(name), "training": training}
    if name == "mlp":
        config = model_of("DAU1d")
        section = config["model"]["diffusion"]
        section.update(type="mlp", config={**tiny.BACKBONES["mlp"], "depth": 2})
        section["config"].pop("input_concat_dim")
    else:
        config = model_of(name)
    training.update(cfg_dropout_prob=0.5, trainable={"lr_multipliers": {"conditioner": 0.5}})
    return {**config, "training": training}


def _without_conditioning(name: str) -> dict[str, Any]:
    name = name.removesuffix(" without conditioning")
    like = model_of("dit")
    section = {"type": name, "config": copy.deepcopy(tiny.UNCOND_BACKBONES[name])}
    model = {**section, "io_channels": 2, "pretransform": like["model"]["pretransform"]}
    return {**like, "model_type": "diffusion_uncond", "model": model}
