"""What must hold between a model file and a dataset file: latents are not encoded again, sound is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.config.problems import Problem, json_path
from stable_audio.config.top import ModelConfig


def latents_problems(config: ModelConfig, dataset: Mapping[str, Any] | None) -> list[Problem]:
    """Why `config` would take the latents of `dataset` for sound, or its sound for latents.

    Args:
        dataset: content of a valid dataset file.
    """
    if dataset is None:
        return []
    stored = dataset.get("dataset_type") == "pre_encoded" or bool(dataset.get("pre_encoded"))
    if config.model_type in ("autoencoder", "diffusion_autoencoder"):
        message = (
            f"found '{config.model_type}', which learns from sound, but the dataset file describes latents"
        )
        return [Problem("$.model_type", message)] if stored else []
    data = config.as_dict()
    expected = bool((data.get("training") or {}).get("pre_encoded"))
    where = json_path(("training", "pre_encoded"))
    if stored and not expected and data["model"].get("pretransform") is not None:
        return [Problem(where, "must be true, since the dataset file describes latents, not sound to encode")]
    if expected and not stored:
        message = "found true, but the dataset file describes sound; remove it, or name a folder of latents"
        return [Problem(where, message)]
    return []
