"""A model and a dataset small enough to train in a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stable_audio.checkpoints import export
from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.training.options import RunOptions
from stable_audio.training.trainer import Run, assemble
from tests import tiny

DATASET = {"dataset_type": "synthetic"}


def tiny_config(**training: Any) -> dict[str, Any]:
    """A two-layer DiT on patches of 256 ms at 4 kHz."""
    backbone = {
        "io_channels": 32,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "cond_token_dim": 16,
        "global_cond_dim": 16,
        "ff_kwargs": {"mult": 1},
    }
    return {
        "model_type": "diffusion_cond",
        "sample_size": 1024,
        "sample_rate": 4000,
        "audio_channels": 1,
        "model": {
            "io_channels": 32,
            "pretransform": {"type": "patched", "config": {"channels": 1, "patch_size": 32}},
            "diffusion": {
                "type": "dit",
                "diffusion_objective": "rectified_flow",
                "config": backbone,
                "cross_attention_cond_ids": ["seconds_start", "seconds_total"],
                "global_cond_ids": ["seconds_total"],
            },
            "conditioning": {
                "cond_dim": 16,
                "configs": [
                    {"id": i, "type": "number", "config": {"min_val": 0, "max_val": 10}}
                    for i in ("seconds_start", "seconds_total")
                ],
            },
        },
        "training": {"learning_rate": 1e-3, **training},
    }


def latent_config() -> dict[str, Any]:
    """A DiT on the latents of a small autoencoder."""
    config = tiny_config()
    section = tiny.PRETRANSFORMS["autoencoder"]
    channels = section["latent_dim"]
    config["model"]["io_channels"] = channels
    config["model"]["diffusion"]["config"]["io_channels"] = channels
    config["model"]["pretransform"] = {"type": "autoencoder", "config": section}
    return config | {"audio_channels": section["io_channels"]}


def stored(folder: Path, suffix: str, config: dict[str, Any], **options: Any) -> Path:
    """A file with the random weights of a config's model."""
    torch.manual_seed(7)
    model = create_model_from_config(config)
    return export(model, folder / f"stored{suffix}", config=config, **options)


def demo_section(**changes: Any) -> dict[str, Any]:
    return {
        "demo_every": 2,
        "demo_steps": 2,
        "demo_cond": [{"seconds_start": 0, "seconds_total": 1}, {"seconds_start": 0, "seconds_total": 2}],
        "demo_cfg_scales": [1, 3],
        **changes,
    }


def tiny_run(folder: Path, config: dict[str, Any] | None = None, **options: Any) -> Run:
    """A run in `folder` that is ready to start."""
    val_dataset = options.pop("val_dataset", None)
    dataset = options.pop("dataset", DATASET)
    given = {
        "save_dir": str(folder),
        "batch_size": 2,
        "num_workers": 0,
        "accelerator": "cpu",
        "devices": "1",
        "max_steps": 4,
        "progress": False,
        **options,
    }
    loaded = load_config(config if config is not None else tiny_config())
    return assemble(loaded, dataset, RunOptions(**given), val_dataset=val_dataset)


def write_files(folder: Path, config: dict[str, Any]) -> list[str]:
    """Flags of the train command for a config on disk."""
    (folder / "model.json").write_text(json.dumps(config))
    (folder / "data.json").write_text(json.dumps(DATASET))
    return ["--model-config", str(folder / "model.json"), "--dataset-config", str(folder / "data.json")]
