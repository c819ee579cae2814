"""A model small enough to render in milliseconds, with weights that answer to every input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stable_audio.factory import create_model_from_config
from stable_audio.model import DiffusionModel

RATE, SIZE, PATCH = 1000, 640, 16


def config(objective: str = "rectified_flow", *, inpaint: bool = False) -> dict[str, Any]:
    """Half a second of mono: a prompt of three words, two times, patches of 16 samples."""
    concat = {"input_concat_ids": ["inpaint_mask", "inpaint_masked_input"]} if inpaint else {}
    return {
        "model_type": "diffusion_cond_inpaint" if inpaint else "diffusion_cond",
        "sample_rate": RATE,
        "sample_size": SIZE,
        "audio_channels": 1,
        "model": {
            "io_channels": PATCH,
            "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": PATCH}},
            "conditioning": {
                "cond_dim": 8,
                "configs": [
                    {"id": "prompt", "type": "list", "config": {"options": ["bell", "drum", "wind"]}},
                    {"id": "seconds_total", "type": "number", "config": {"min_val": 0, "max_val": 10}},
                ],
            },
            "diffusion": {
                "type": "dit",
                "diffusion_objective": objective,
                "cross_attention_cond_ids": ["prompt", "seconds_total"],
                "global_cond_ids": ["seconds_total"],
                "config": {
                    "io_channels": PATCH,
                    "embed_dim": 32,
                    "depth": 1,
                    "num_heads": 2,
                    "cond_token_dim": 8,
                    "global_cond_dim": 8,
                    **({"input_concat_dim": 1 + PATCH} if inpaint else {}),
                },
                **concat,
            },
        },
    }


def uncond_config() -> dict[str, Any]:
    return {
        "model_type": "diffusion_uncond",
        "sample_rate": RATE,
        "sample_size": SIZE,
        "audio_channels": 1,
        "model": {
            "type": "dit",
            "config": {"in_channels": 1, "embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 16},
        },
    }


def build(values: dict[str, Any]) -> DiffusionModel:
    """Fresh weights, none of them zero, the same every time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = create_model_from_config(values)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save(folder: Path, values: dict[str, Any]) -> tuple[Path, Path]:
    """A checkpoint and its model file, apart from each other."""
    import json

    weights, model_file = folder / "weights" / "tiny.safetensors", folder / "tiny.json"
    weights.parent.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in build(values).state_dict().items()}, weights)
    model_file.write_text(json.dumps(values))
    return weights, model_file
