"""Makes a shipped config small enough for one training step in a test, keeping its structure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from stable_audio.factory import create_model_from_config

Settings = dict[str, Any]


def _dit(config: Settings) -> None:
    config["depth"] = 1
    # Without projections the widths of conditioning and backbone are tied to each other.
    if config.get("project_cond_tokens", True) and config.get("project_global_cond", True):
        config.update(embed_dim=64, num_heads=2)


def _dau1d(config: Settings) -> None:
    config.update(depth=3, channels=[32, 32, 32], strides=[2, 2], n_attn_layers=1)


def _adp(config: Settings) -> None:
    config["channels"] = 16
    config["resnet_groups"] = 4


def _unet(config: Settings) -> None:
    config.update(channels=32, groups=4)


def _oobleck(config: Settings) -> None:
    config["channels"] = 4


def _autoencoder_kl(config: Settings) -> None:
    config.update(ch=32, ch_mult=[1] * len(config.get("ch_mult", [1, 2, 4, 4])), num_res_blocks=1)


def _same(config: Settings) -> None:
    config.update(channels=8, dim_heads=16, transformer_depths=[2] * len(config["transformer_depths"]))


def _nothing(config: Settings) -> None:
    pass


BACKBONES: dict[str, Callable[[Settings], None]] = {
    "dit": _dit,
    "DAU1d": _dau1d,
    "adp_cfg_1d": _adp,
    "adp_1d": _adp,
    "adp_uncond_1d": _adp,
    "unet": _unet,
}
CODERS: dict[str, Callable[[Settings], None]] = {
    "oobleck": _oobleck,
    "autoencoder_kl": _autoencoder_kl,
    "same": _same,
}
TEXT = {"type": "clip_text", "config": {"width": 32, "layers": 1, "heads": 2}}


def shrink(config: Settings) -> Settings:
    """A small copy: fewer and narrower layers, the shortest clips that the model can take."""
    small = copy.deepcopy(config)
    model = small["model"]
    backbone = model.get("diffusion", model)
    BACKBONES.get(backbone["type"], _nothing)(backbone.setdefault("config", {}))
    for entry in (model.get("conditioning") or {}).get("configs", []):
        if entry["type"] in ("t5", "t5gemma", "clip_text", "clap_text"):
            kept = {k: v for k, v in entry["config"].items() if k in ("max_length", "pooled", "vocab_size")}
            entry.update(type=TEXT["type"], config={**kept, **TEXT["config"]})  # type: ignore[dict-item]
    for autoencoder in (model, (model.get("pretransform") or {}).get("config", {})):
        for part in ("encoder", "decoder"):
            if part in autoencoder:
                CODERS.get(autoencoder[part]["type"], _nothing)(autoencoder[part].setdefault("config", {}))
    small["sample_size"] = _shortest(small)
    return small


def _shortest(config: Settings) -> int:
    multiple = create_model_from_config(config, device="meta").length_multiple
    return max(1, -(-2048 // multiple)) * multiple
