"""Full-size published models, built without memory, have exactly the listed keys, shapes and sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.checkpoints.keys import sat_backbone_prefix
from stable_audio.conditioning import CONDITIONERS, MultiConditioner
from stable_audio.factory import create_model_from_config
from tests.golden.harness import MANIFESTS
from tests.golden.kinds.assembly import construct
from tests.pretransforms.building import build_autoencoder, build_pretransform

TEXT_ENCODERS = frozenset({"t5", "clap_text", "t5gemma"})
"""Their weights are not in the manifests."""

Part = tuple[str, nn.Module]
"""Prefix of the part's keys in the checkpoint, and the part."""


def backbone(config: dict[str, Any]) -> Part:
    conditional = config["model_type"] != "diffusion_uncond"
    section = config["model"]["diffusion"] if conditional else config["model"]
    registry = BACKBONES if conditional else UNCOND_BACKBONES
    return sat_backbone_prefix(config), construct(registry[section["type"]], section["config"])


def conditioner(config: dict[str, Any]) -> Part:
    section = config["model"]["conditioning"]
    built = {
        c["id"]: CONDITIONERS[c["type"]](output_dim=section["cond_dim"], **c["config"])
        for c in section["configs"]
        if c["type"] not in TEXT_ENCODERS
    }
    return "conditioner.", MultiConditioner(built)


def pretransform(config: dict[str, Any]) -> Part:
    return "pretransform.", build_pretransform(config["model"]["pretransform"])


def autoencoder(config: dict[str, Any]) -> Part:
    return "", build_autoencoder(config["model"], config["sample_rate"])


BUILDERS: dict[str, Callable[[dict[str, Any]], Part]] = {
    "backbone": backbone,
    "conditioner": conditioner,
    "pretransform": pretransform,
    "autoencoder": autoencoder,
}
PARTS_OF: dict[str, tuple[str, ...]] = {
    "diffusion_cond": ("backbone", "conditioner", "pretransform"),
    "diffusion_uncond": ("backbone",),
    "autoencoder": ("autoencoder",),
}
SIZE_KEYS = {"backbone": ("model",), "autoencoder": ("encoder", "decoder", "bottleneck")}


def manifests(with_config: bool) -> list[Path]:
    files = sorted(MANIFESTS.glob("*.json"))
    return [f for f in files if (json.loads(f.read_text())["config"] is not None) is with_config]


CASES = [
    pytest.param(path, part, id=f"{path.stem}-{part}")
    for path in manifests(with_config=True)
    for part in PARTS_OF[json.loads(path.read_text())["config"]["model_type"]]
]


@pytest.mark.parametrize(("path", "part"), CASES)
def test_part_has_the_listed_keys_shapes_and_size(path: Path, part: str) -> None:
    manifest = json.loads(path.read_text())
    with torch.device("meta"):
        prefix, module = BUILDERS[part](manifest["config"])
    found = {prefix + k: list(v.shape) for k, v in module.state_dict().items()}
    listed = {k: shape for k, shape in manifest["shapes"].items() if k.startswith(prefix)}
    assert found == listed
    expected = sum(manifest["submodule_params"][k] for k in SIZE_KEYS.get(part, (part,)))
    assert sum(p.numel() for p in module.parameters()) == expected


@pytest.mark.parametrize("name", ["stable_audio_open_1_0_like", "stable_audio_open_small_like"])
def test_whole_model_from_its_config(name: str) -> None:
    """The path that users take: nothing but the prefix of the backbone differs from the checkpoint."""
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text())
    model = create_model_from_config(manifest["config"], device="meta")
    found = {k.replace("backbone.", "model.model.", 1): list(v.shape) for k, v in model.state_dict().items()}
    assert found == manifest["shapes"]
