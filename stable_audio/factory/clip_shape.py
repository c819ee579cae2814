"""What a model, or a folder of latents, asks of the clips of a dataset."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from stable_audio.conditioning.preparation import TextPreparation
from stable_audio.conditioning.values import ValueCheck
from stable_audio.config import DatasetConfig, ModelConfig
from stable_audio.data.latents import MANIFEST, read_manifest


def clip_shape(config: ModelConfig, model: nn.Module) -> dict[str, int]:
    """Keywords of `create_dataset` and `create_loader` for the clips of a model."""
    return {
        "sample_rate": config.sample_rate,
        "sample_size": config.sample_size,
        "audio_channels": getattr(model, "audio_channels", config.audio_channels),
        "downsampling_ratio": getattr(model, "downsampling_ratio", 1),
    }


def metadata_check(model: nn.Module) -> ValueCheck | None:
    """The check of metadata by a model's conditioners; None for a model without any."""
    conditioner: Any = getattr(model, "conditioner", None)
    return conditioner.value_check() if conditioner is not None else None


def text_preparation(model: nn.Module) -> TextPreparation | None:
    """What data loading may do with texts for a model's conditioners; None if there is nothing."""
    conditioner: Any = getattr(model, "conditioner", None)
    return conditioner.text_preparation() if conditioner is not None else None


def stored_shape(config: DatasetConfig) -> dict[str, int]:
    """Sample rate and samples per latent frame of latents, from the first folder of them with a manifest.

    Empty for other datasets, and where no folder has one.
    """
    section: Any = config
    if section.dataset_type != "pre_encoded":
        return {}
    paths = [entry.path for entry in section.datasets]
    path = next((p for p in paths if os.path.isfile(os.path.join(p, MANIFEST))), None)
    if path is None:
        return {}
    manifest = read_manifest(path)
    return {key: manifest[key] for key in ("sample_rate", "downsampling_ratio")}
