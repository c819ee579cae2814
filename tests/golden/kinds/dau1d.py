"""Kind `dau1d`: one forward pass, unconditional or with input_concat and a given augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio.backbones import UNCOND_BACKBONES
from stable_audio.backbones.dau1d import DAU1d
from stable_audio.types import Conditioning
from tests.golden.harness import Case, load_strict

AUGMENTATION_LEVEL = 0.3
"""The cases with `cond_noise_aug` were computed at this level."""


def run(case: Case) -> dict[str, Tensor]:
    config, inputs = case.config, case.inputs
    if "kwargs" in config:
        backbone: DAU1d = DAU1d(**config["kwargs"])
    else:
        backbone = UNCOND_BACKBONES[config["model"]["type"]](**config["model"]["config"])
    load_strict(backbone, {k.removeprefix("model."): v for k, v in case.weights().items()})
    backbone.train(case.spec["mode"] == "train")
    cond = Conditioning(input_concat=inputs.get("cond"))
    if "aug_noise" in inputs:
        level = torch.full((inputs["x"].shape[0],), AUGMENTATION_LEVEL)
        cond = backbone.augment(cond, level, inputs["aug_noise"])
    with torch.no_grad():
        return {"y": backbone(inputs["x"], inputs["t"], cond)}
