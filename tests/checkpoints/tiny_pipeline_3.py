"""A tiny model of the architecture of Stable Audio 3, with a text encoder and a tokenizer on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from tests.checkpoints.tiny_pipeline import disturb
from tests.conditioning.tiny_encoders import save_t5gemma

RATE, PATCH, STRIDE, LATENTS, TEXT_WIDTH, FRAMES = 16_000, 16, 4, 8, 16, 24
RATIO = PATCH * STRIDE
STAGES = {
    "channels": 32,
    "c_mults": [4],
    "strides": [STRIDE],
    "latent_dim": LATENTS,
    "transformer_depths": [3],
    "sliding_window": [1, 1],
    "dim_heads": 64,
    "variable_stride": True,
}


def autoencoder(differential: bool = True) -> dict[str, Any]:
    """The `model` of an autoencoder."""
    stages = {**STAGES, "differential": differential}
    width = 2 * PATCH
    return {
        "encoder": {"type": "same", "config": {**stages, "in_channels": width}},
        "decoder": {"type": "same", "config": {**stages, "out_channels": width, "sinusoidal_blocks": [2]}},
        "bottleneck": {
            "type": "softnorm",
            "config": {"dim": LATENTS, "noise_regularize": True, "auto_scale": True, "freeze": True},
        },
        "pretransform": {"type": "patched", "config": {"channels": 2, "patch_size": PATCH}},
        "latent_dim": LATENTS,
        "downsampling_ratio": RATIO,
        "io_channels": 2,
    }


def config(
    folder: Path, *, objective: str = "rectified_flow", local: bool = True, differential: bool = True
) -> dict[str, Any]:
    """A model config whose text encoder is saved in `folder`."""
    if not (folder / "config.json").is_file():
        save_t5gemma(folder)
    text = {"model_path": str(folder), "max_length": 8, "padding_mode": "learned", "encoder_dtype": "float32"}
    seconds = {"min_val": 0, "max_val": 1, "fourier_features_type": "expo"}
    backbone = {
        "io_channels": LATENTS,
        "embed_dim": 128,
        "depth": 2,
        "num_heads": 2,
        "cond_token_dim": TEXT_WIDTH,
        "global_cond_dim": TEXT_WIDTH,
        "local_add_cond_dim": 1 + LATENTS if local else 0,
        "global_cond_type": "adaLN",
        "timestep_features_type": "expo",
        "norm_type": "rms_norm",
        "norm_kwargs": {"force_fp32": True, "eps": 1e-6},
        "attn_kwargs": {"qk_norm": "rms", "differential": differential},
        "num_memory_tokens": 4,
    }
    return {
        "model_type": "diffusion_cond_inpaint" if local else "diffusion_cond",
        "sample_size": FRAMES * RATIO,
        "sample_rate": RATE,
        "audio_channels": 2,
        "model": {
            "io_channels": LATENTS,
            "pretransform": {"type": "autoencoder", "config": autoencoder(differential)},
            "conditioning": {
                "cond_dim": TEXT_WIDTH,
                "configs": [
                    {"id": "prompt", "type": "t5gemma", "config": text},
                    {"id": "seconds_total", "type": "number", "config": seconds},
                ],
            },
            "diffusion": {
                "type": "dit",
                "diffusion_objective": objective,
                "cross_attention_cond_ids": ["prompt", "seconds_total"],
                "global_cond_ids": ["seconds_total"],
                **({"local_add_cond_ids": ["inpaint_mask", "inpaint_masked_input"]} if local else {}),
                "config": backbone,
            },
        },
    }


def build(values: dict[str, Any]) -> Any:
    """The model with weights that are all away from their initial values."""
    torch.manual_seed(5)
    model = create_model_from_config(load_config(values))
    disturb(model)
    return model.eval()
