"""Small valid files that the tests of this folder damage."""

from __future__ import annotations

import copy
from typing import Any

_COND: dict[str, Any] = {
    "$schema": "../schema.json",
    "model_type": "diffusion_cond",
    "sample_size": 1024,
    "sample_rate": 16000,
    "audio_channels": 2,
    "model": {
        "io_channels": 4,
        "diffusion": {
            "type": "dit",
            "diffusion_objective": "rectified_flow",
            "config": {
                "io_channels": 4,
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
                "cond_token_dim": 8,
                "global_cond_dim": 16,
                "attn_kwargs": {"qk_norm": "ln"},
            },
            "cross_attention_cond_ids": ["prompt", "seconds_total"],
            "global_cond_ids": ["seconds_start", "seconds_total"],
            "distribution_shift_options": {"min_length": 8, "max_length": 64},
        },
        "conditioning": {
            "cond_dim": 8,
            "configs": [
                {
                    "id": "prompt",
                    "type": "clip_text",
                    "config": {"width": 8, "layers": 1, "heads": 1, "max_length": 8, "vocab_size": 300},
                },
                {"id": "seconds_start", "type": "number", "config": {"min_val": 0, "max_val": 512}},
                {"id": "seconds_total", "type": "int", "config": {"min_val": 0, "max_val": 512}},
            ],
            "default_keys": {"seconds_start": "seconds_total"},
        },
        "pretransform": {
            "type": "autoencoder",
            "scale": 0.8,
            "config": {
                "encoder": {
                    "type": "oobleck",
                    "config": {
                        "in_channels": 2,
                        "channels": 4,
                        "c_mults": [1, 2],
                        "strides": [2, 4],
                        "latent_dim": 8,
                    },
                },
                "decoder": {
                    "type": "oobleck",
                    "config": {
                        "out_channels": 2,
                        "channels": 4,
                        "c_mults": [1, 2],
                        "strides": [2, 4],
                        "latent_dim": 4,
                    },
                },
                "bottleneck": {"type": "vae"},
                "latent_dim": 4,
                "downsampling_ratio": 8,
                "io_channels": 2,
            },
        },
    },
    "training": {
        "optimizer_configs": {
            "diffusion": {
                "optimizer": {"type": "AdamW", "config": {"lr": 0.001, "betas": [0.9, 0.99]}},
                "scheduler": {"type": "InverseLR", "config": {"inv_gamma": 1000, "power": 0.5}},
            }
        },
        "timestep_sampler": "log_snr",
        "timestep_sampler_options": {"mean_logsnr": -1},
        "loss_configs": {"diffusion": {"type": "huber", "weight": 1.0, "config": {"delta": 0.5}}},
        "demo": {
            "demo_every": 100,
            "demo_steps": 8,
            "num_demos": 2,
            "demo_cond": [
                {"prompt": "a bell", "seconds_total": 3},
                {"prompt": "a drum", "seconds_start": 0, "seconds_total": 3},
            ],
            "demo_cfg_scales": [1, 4],
        },
    },
}

_UNCOND: dict[str, Any] = {
    "model_type": "diffusion_uncond",
    "sample_size": 256,
    "sample_rate": 16000,
    "audio_channels": 1,
    "model": {
        "type": "dit",
        "config": {"in_channels": 4, "embed_dim": 8, "depth": 1, "num_heads": 1},
        "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 4}},
    },
    "training": {"learning_rate": 0.0001, "demo": {"demo_every": 10, "demo_steps": 4}},
}


def cond() -> dict[str, Any]:
    """A `diffusion_cond` file that uses most sections."""
    return copy.deepcopy(_COND)


def uncond() -> dict[str, Any]:
    """A `diffusion_uncond` file."""
    return copy.deepcopy(_UNCOND)


def autoencoder() -> dict[str, Any]:
    """An `autoencoder` file."""
    return {
        "model_type": "autoencoder",
        "sample_size": 1024,
        "sample_rate": 16000,
        "audio_channels": 2,
        "model": cond()["model"]["pretransform"]["config"],
        "training": {
            "optimizer_configs": {
                "autoencoder": {"optimizer": {"type": "AdamW", "config": {"lr": 0.001}}},
                "discriminator": {"optimizer": {"type": "AdamW", "config": {"lr": 0.002}}},
            },
            "loss_configs": {
                "discriminator": {
                    "type": "encodec",
                    "config": {"filters": 4},
                    "weights": {"adversarial": 0.2},
                },
                "spectral": {"type": "mrstft", "weights": {"mrstft": 1.0}},
                "time": {"weights": {"l1": 0.5}},
                "bottleneck": {"type": "kl", "weights": {"kl": 1e-6}},
            },
            "demo": {"demo_every": 100},
        },
    }


def diffusion_autoencoder() -> dict[str, Any]:
    """A `diffusion_autoencoder` file."""
    model = cond()["model"]["pretransform"]["config"]
    return {
        "model_type": "diffusion_autoencoder",
        "sample_size": 1024,
        "sample_rate": 16000,
        "audio_channels": 2,
        "model": {
            "encoder": {"type": "oobleck", "config": {**model["encoder"]["config"], "latent_dim": 4}},
            "bottleneck": {"type": "tanh"},
            "diffusion": {
                "type": "dit",
                "config": {
                    "io_channels": 2,
                    "patch_size": 4,
                    "embed_dim": 8,
                    "depth": 1,
                    "num_heads": 1,
                    "input_concat_dim": 4,
                },
            },
            "latent_dim": 4,
            "downsampling_ratio": 8,
            "io_channels": 2,
        },
        "training": {"learning_rate": 1e-4, "demo": {"demo_every": 100, "demo_steps": 4}},
    }


def inpaint() -> dict[str, Any]:
    """The `diffusion_cond_inpaint` variant of `cond`."""
    data = cond()
    data["model_type"] = "diffusion_cond_inpaint"
    data["model"]["diffusion"]["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    data["model"]["diffusion"]["config"]["input_concat_dim"] = 5
    data["training"]["inpainting"] = {"mask_kwargs": {"mask_type_probabilities": [0.2, 0.5, 0.3]}}
    return data
