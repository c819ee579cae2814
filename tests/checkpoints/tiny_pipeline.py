"""A tiny model that diffusers' Stable Audio layout can hold, with a text encoder and a tokenizer on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.golden.kinds.cond import tiny_tokenizer

WORDS = [
    "<pad>",
    "</s>",
    "<unk>",
    "rock",
    "drum",
    "loop",
    "ambient",
    "piano",
    "with",
    "soft",
    "strings",
    "noise",
]
WIDTH = 16
CODER = {"channels": 8, "c_mults": [1, 2], "strides": [2, 4], "use_snake": True}
DIFFUSION = {
    "io_channels": 4,
    "embed_dim": 128,
    "num_heads": 2,
    "depth": 2,
    "cond_token_dim": 64,
    "project_cond_tokens": False,
    "global_cond_dim": 128,
}


def save_text_encoder(folder: Path, width: int = WIDTH) -> str:
    """Write a random T5 encoder and a tokenizer of whole words; its own model_max_length is 512."""
    from transformers import T5Config, T5EncoderModel

    options = {"vocab_size": len(WORDS), "d_model": width, "d_kv": 8, "d_ff": 24, "num_layers": 2}
    torch.manual_seed(1)
    encoder: nn.Module = T5EncoderModel(T5Config(**options, num_heads=2, dropout_rate=0.0))
    disturb(encoder)
    encoder.eval().save_pretrained(folder)
    tiny_tokenizer(WORDS).save_pretrained(folder)
    return str(folder)


def disturb(module: nn.Module) -> None:
    """Move every parameter away from its initial value, branches that start at zero above all."""
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.data.add_(0.5 * torch.randn_like(parameter) / fan_in**0.5)


def conditioning(text_encoder: str, *, cond_dim: int = 64) -> dict[str, Any]:
    """`model.conditioning`."""
    text = {"t5_model_name": text_encoder, "max_length": 6, "encoder_dtype": "float32"}
    times = {"min_val": 0, "max_val": 8}
    return {
        "cond_dim": cond_dim,
        "configs": [
            {"id": "prompt", "type": "t5", "config": text},
            {"id": "seconds_start", "type": "number", "config": times},
            {"id": "seconds_total", "type": "number", "config": dict(times)},
        ],
    }


def config(text_encoder: str = "t5-base", **diffusion: Any) -> dict[str, Any]:
    """A model file; `diffusion` are options of the DiT."""
    return {
        "model_type": "diffusion_cond",
        "sample_rate": 64,
        "sample_size": 128,
        "audio_channels": 2,
        "model": {
            "io_channels": 4,
            "conditioning": conditioning(text_encoder),
            "diffusion": {
                "type": "dit",
                "diffusion_objective": "v",
                "cross_attention_cond_ids": ["prompt", "seconds_start", "seconds_total"],
                "global_cond_ids": ["seconds_start", "seconds_total"],
                "config": {**DIFFUSION, **diffusion},
            },
            "pretransform": {
                "type": "autoencoder",
                "config": {
                    "encoder": {"type": "oobleck", "config": {**CODER, "latent_dim": 8}},
                    "decoder": {"type": "oobleck", "config": {**CODER, "latent_dim": 4, "final_tanh": False}},
                    "bottleneck": {"type": "vae"},
                    "latent_dim": 4,
                    "downsampling_ratio": 8,
                    "io_channels": 2,
                },
            },
        },
    }


def _options(settings: dict[str, Any]) -> None:
    """Every option that may have any value, at one that is not the default."""
    model = settings["model"]
    model["diffusion"]["cross_attention_cond_ids"].reverse()
    model["diffusion"]["distribution_shift_options"] = {"base_shift": 0.4}
    model["diffusion"]["diffusion_process"] = {"type": "cosine"}
    model["diffusion"]["config"] |= {
        "project_cond_tokens": True,
        "project_global_cond": False,
        "timestep_embed_dim": 7,
        "timestep_features_dim": 64,
        "zero_init_branch_outputs": False,
        "abs_pos_emb_max_length": 3,
        "final_cross_attn_ix": 1,
        "attn_kwargs": {"qk_norm_eps": 0.1, "zero_init_output": False, "causal": False, "backend": "sdpa"},
        "ff_kwargs": {"mult": 4.0, "conv_kernel_size": 5, "zero_init_output": False},
        "norm_kwargs": {"bias": True},
    }
    model["conditioning"]["default_keys"] = {"prompt": "caption"}
    text, start, total = (entry["config"] for entry in model["conditioning"]["configs"])
    text |= {"enable_grad": True, "project_out": True}
    for times in (start, total):
        times |= {"min_val": -1.5, "max_val": 30}
    section = model["pretransform"]
    section |= {"scale": 1.0, "iterate_batch": True, "chunked": True, "enable_grad": True, "hash": None}
    section["config"] |= {"in_channels": 2, "out_channels": 2, "latent_scale": 1.7}
    for name in ("encoder", "decoder", "bottleneck"):
        section["config"][name]["requires_grad"] = False
    section["config"]["bottleneck"]["config"] = {"sample": False}
    section["config"]["encoder"]["config"]["in_channels"] = 2
    section["config"]["decoder"]["config"] |= {"out_channels": 2, "channels": 12}


def _wide_heads(settings: dict[str, Any]) -> None:
    """Heads of 96 features, three of them sharing one of the context; scales of norms fixed."""
    settings["model"]["diffusion"]["config"] |= {
        "embed_dim": 288,
        "num_heads": 3,
        "depth": 3,
        "cond_token_dim": 96,
        "global_cond_dim": 192,
        "norm_kwargs": {"fix_scale": True},
    }
    settings["model"]["conditioning"]["cond_dim"] = 32
    for entry in settings["model"]["conditioning"]["configs"]:
        entry["config"]["output_dim"] = 96


def _unprojected_text(settings: dict[str, Any]) -> None:
    """The text encoder is as wide as the conditioning, so that nothing projects it; mono."""
    settings["model"]["pretransform"]["config"]["io_channels"] = 1
    settings["model"]["pretransform"]["config"]["encoder"]["config"]["in_channels"] = 1
    settings["model"]["pretransform"]["config"]["decoder"]["config"]["out_channels"] = 1
    settings["audio_channels"] = 1


VARIANTS: dict[str, tuple[Callable[[dict[str, Any]], None], int]] = {
    "options": (_options, WIDTH),
    "wide heads": (_wide_heads, WIDTH),
    "unprojected text": (_unprojected_text, 64),
}
"""Name -> what is changed, and the width of the text encoder."""


def variant(name: str, text_encoder: Path) -> dict[str, Any]:
    """A model file that the layout can hold; the text encoder is written to a folder."""
    change, width = VARIANTS[name]
    settings = config(save_text_encoder(text_encoder, width))
    change(settings)
    return settings
