"""Weights of our networks under the names and in the shapes of diffusers' Stable Audio layout.

Only names and shapes change: fused projections are split, snake parameters gain two axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

DIT_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^to_timestep_embed\.", "timestep_proj."),
    (r"^to_global_embed\.", "global_proj."),
    (r"^to_cond_embed\.", "cross_attention_proj."),
    (r"^transformer\.project_in\.", "proj_in."),
    (r"^transformer\.project_out\.", "proj_out."),
    (r"^transformer\.layers\.", "transformer_blocks."),
    (r"\.pre_norm\.gamma$", ".norm1.weight"),
    (r"\.pre_norm\.beta$", ".norm1.bias"),
    (r"\.cross_attend_norm\.gamma$", ".norm2.weight"),
    (r"\.cross_attend_norm\.beta$", ".norm2.bias"),
    (r"\.ff_norm\.gamma$", ".norm3.weight"),
    (r"\.ff_norm\.beta$", ".norm3.bias"),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.to_out\.weight$", ".to_out.0.weight"),
    (r"\.ff\.ff\.", ".ff.net."),
)
SPLITS = {"to_qkv": ("to_q", "to_k", "to_v"), "to_kv": ("to_k", "to_v")}


def dit_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our DiT -> those of StableAudioDiTModel."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith("inv_freq"):
            continue
        if key == "timestep_features.weight":
            out["time_proj.weight"] = value.flatten()
            continue
        name = _renamed(key, DIT_RENAMES)
        out.update(_split(name, value))
    return out


def _split(name: str, value: Tensor) -> Iterable[tuple[str, Tensor]]:
    for fused, parts in SPLITS.items():
        if f".{fused}." in name:
            chunks = value.chunk(len(parts))
            return [(name.replace(fused, part), c.contiguous()) for part, c in zip(parts, chunks)]
    return [(name, value)]


def oobleck_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our oobleck autoencoder -> those of AutoencoderOobleck."""
    out: dict[str, Tensor] = {}
    for part in ("encoder", "decoder"):
        layers = below(state, f"{part}.layers.")
        last = max(int(k.split(".")[0]) for k in layers)
        for key, value in with_norms(layers).items():
            snake = key.endswith((".alpha", ".beta"))
            out[f"{part}.{_oobleck_name(part, key, last)}"] = value.view(1, -1, 1) if snake else value
    return out


def with_norms(layers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split folded weights into norm and direction, since diffusers always expects weight norms."""
    out: dict[str, Tensor] = {}
    for key, value in layers.items():
        if key.endswith(".weight"):
            axes = tuple(range(1, value.ndim))
            out[key + "_g"] = torch.linalg.vector_norm(value, dim=axes, keepdim=True)
            out[key + "_v"] = value
        else:
            out[key] = value
    return out


def _oobleck_name(part: str, key: str, last: int) -> str:
    index, name = key.split(".", 1)
    n = int(index)
    if n in (0, last - 1, last):
        return {0: "conv1", last - 1: "snake1", last: "conv2"}[n] + "." + name
    inner = re.match(r"layers\.(\d+)\.(.*)", name)
    assert inner is not None, f"stage without layers: {key}"
    position, tail = int(inner[1]), inner[2]
    # Encoder stages end with their strided convolution, decoder stages begin with it.
    names = (
        {0: "res_unit1", 1: "res_unit2", 2: "res_unit3", 3: "snake1", 4: "conv1"}
        if part == "encoder"
        else {0: "snake1", 1: "conv_t1", 2: "res_unit1", 3: "res_unit2", 4: "res_unit3"}
    )
    unit = re.match(r"layers\.(\d)\.(.*)", tail)
    if unit is not None:
        tail = {0: "snake1", 1: "conv1", 2: "snake2", 3: "conv2"}[int(unit[1])] + "." + unit[2]
    return f"block.{n - 1}.{names[position]}.{tail}"


def projection_state(prompt: Any, start: Any, total: Any) -> dict[str, Tensor]:
    """Weights of our T5 and number conditioners -> those of StableAudioProjectionModel."""
    out = {f"text_projection.{k}": v for k, v in prompt.proj_out.state_dict().items()}
    for name, module in (("start", start), ("end", total)):
        for key, value in module.embedder.embedding.state_dict().items():
            out[f"{name}_number_conditioner.time_positional_embedding.{key}"] = value
    return out


def _renamed(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
