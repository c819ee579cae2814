"""Weights of our networks under the names of diffusers' Stable Audio 3 layout, and back.

Only names change, and the order of the rows of differential attention: queries, keys and values alternate
here, while there both queries precede both keys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from stable_audio.checkpoints.diffusers.weights import with_norms

PADDING = "prompt_padding_embedding"
FREQUENCIES = "rotary_pos_emb.inv_freq"
BLOCK = (
    # ours -> theirs
    (".ff.ff.0.proj.", ".ff.proj_in."),
    (".ff.ff.2.", ".ff.proj_out."),
)
DIT = (
    ("transformer.project_in.", "proj_in."),
    ("transformer.project_out.", "proj_out."),
    ("transformer.memory_tokens", "memory_tokens"),
    ("transformer.rotary_pos_emb.", "rotary_pos_emb."),
    ("transformer.global_cond_embedder.", "global_cond_embedder."),
    ("transformer.layers.", "transformer_blocks."),
    *BLOCK,
)
SAME = (
    (".pre_norm.", ".norm_attn."),
    (".ff_norm.", ".norm_ff."),
    (".self_attn.", ".attn."),
    *BLOCK,
)
BOTTLENECK = {"scaling_factor": "scale", "bias": "bias", "running_std": "running_std"}
_QKV = ".to_qkv.weight"
_DIFFERENTIAL = 5


def dit_state(state: Mapping[str, Tensor], io_channels: int) -> dict[str, Tensor]:
    """Weights of our DiT -> those of StableAudio3DiTModel, except for the embedding of padding.

    Args:
        io_channels: of the backbone. The layout always has layers for local conditioning: where ours has
            none, they add zero.
    """
    renamed = _renamed(state, DIT)
    out = {key: _queries_first(value) if key.endswith(_QKV) else value for key, value in renamed.items()}
    for key, value in list(out.items()):
        if key.endswith(".to_scale_shift_gate"):
            start = key.removesuffix("to_scale_shift_gate") + "to_local_embed."
            if start + "0.weight" not in out:
                out |= {start + name: tensor for name, tensor in _no_local(value, io_channels + 1).items()}
    return out


def dit_state_from(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of StableAudio3DiTModel -> those of our DiT, and PADDING as it is."""
    renamed = _renamed(state, [(theirs, ours) for ours, theirs in reversed(DIT)])
    return {key: _queries_apart(value) if key.endswith(_QKV) else value for key, value in renamed.items()}


def same_state(state: Mapping[str, Tensor], stages: int) -> dict[str, Tensor]:
    """Weights of our autoencoder with `stages` stages -> those of AutoencoderSAME."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        if part == "bottleneck":
            if name in BOTTLENECK:
                out[f"bottleneck.{BOTTLENECK[name]}"] = value
        elif not key.endswith("rope.inv_freq"):
            out[f"{part}.{_place(part, name.removeprefix('layers.'), stages)}"] = value
    out.setdefault("bottleneck.running_std", torch.ones(1))
    mappings = {k: v for k, v in out.items() if ".mapping." in k}
    others = {k: v for k, v in _renamed(out, SAME).items() if k not in mappings}
    others = {k: _queries_first(v) if k.endswith(_QKV) else v for k, v in others.items()}
    return others | with_norms(mappings)


def same_state_from(state: Mapping[str, Tensor], stages: int) -> dict[str, Tensor]:
    """Weights of AutoencoderSAME with `stages` stages -> those of our autoencoder."""
    out: dict[str, Tensor] = {"bottleneck.noise_scaling_factor": torch.ones(1, 0, 1)}
    theirs = {name: ours for ours, name in BOTTLENECK.items()}
    for key, value in state.items():
        part, _, name = key.partition(".")
        if part == "bottleneck":
            out[f"bottleneck.{theirs[name]}"] = value
            continue
        out[f"{part}.layers.{_place_from(part, name, stages)}"] = value
    out = _renamed(out, [(theirs, ours) for ours, theirs in reversed(SAME)])
    out = {key: _queries_apart(value) if key.endswith(_QKV) else value for key, value in out.items()}
    for key in [k for k in out if k.endswith(".self_attn.q_norm.gamma")]:
        rope = key.replace(".self_attn.q_norm.gamma", ".rope.inv_freq")
        out[rope] = _frequencies(out[key].numel() // 2)
    return out


def number_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our number conditioner -> those of StableAudio3DurationEmbedder."""
    linear = {name: state[f"embedder.embedding.1.{name}"] for name in ("weight", "bias")}
    half = linear["weight"].shape[1] // 2
    low, high = math.log(0.5), math.log(10_000)
    # In the order of operations of ExpoFourierFeatures: the largest angles magnify its rounding.
    frequencies = (torch.linspace(0.0, 1.0, half) * (high - low) + low).exp()
    return {"freqs": frequencies, **{f"linear.{name}": value for name, value in linear.items()}}


def number_state_from(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of StableAudio3DurationEmbedder -> those of our number conditioner."""
    return {f"embedder.embedding.1.{name}": state[f"linear.{name}"] for name in ("weight", "bias")}


def _place(part: str, name: str, stages: int) -> str:
    index, _, tail = name.partition(".")
    projection, first = (stages + 1, 0) if part == "encoder" else (1, 3)
    return f"proj.{tail}" if int(index) == projection else f"blocks.{int(index) - first}.{tail}"


def _place_from(part: str, name: str, stages: int) -> str:
    projection, first = (stages + 1, 0) if part == "encoder" else (1, 3)
    if name.startswith("proj."):
        return f"{projection}.{name.removeprefix('proj.')}"
    index, _, tail = name.removeprefix("blocks.").partition(".")
    return f"{int(index) + first}.{tail}"


def _queries_first(weight: Tensor) -> Tensor:
    """Rows q, k, v, q2, k2 -> q, q2, k, k2, v; those of plain attention stay."""
    if weight.shape[0] != _DIFFERENTIAL * weight.shape[1]:
        return weight
    q, k, v, q2, k2 = weight.chunk(_DIFFERENTIAL)
    return torch.cat([q, q2, k, k2, v])


def _queries_apart(weight: Tensor) -> Tensor:
    """The inverse of `_queries_first`."""
    if weight.shape[0] != _DIFFERENTIAL * weight.shape[1]:
        return weight
    q, q2, k, k2, v = weight.chunk(_DIFFERENTIAL)
    return torch.cat([q, k, v, q2, k2])


def _no_local(gate: Tensor, channels: int) -> dict[str, Tensor]:
    """Layers for local conditioning of a width of `gate` / 6 that add zero."""
    dim = gate.numel() // 6
    shapes = {"0.weight": (dim, channels), "0.bias": (dim,), "2.weight": (dim, dim), "2.bias": (dim,)}
    return {name: gate.new_zeros(shape) for name, shape in shapes.items()}


def _frequencies(channels: int) -> Tensor:
    return 1.0 / (10_000 ** (torch.arange(0, channels, 2).float() / channels))


def _renamed(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    rules = list(rules)
    return {_name(key, rules): value for key, value in state.items()}


def _name(key: str, rules: Iterable[tuple[str, str]]) -> str:
    for old, new in rules:
        # Names without a leading dot begin a key.
        start = "" if old.startswith(".") else "^"
        key = re.sub(start + re.escape(old), new, key)
    return key
