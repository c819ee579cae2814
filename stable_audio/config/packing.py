"""What must hold between a model file and a dataset file whose clips share rows (`pack_length`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.config.facts import gather
from stable_audio.config.problems import Problem, json_path
from stable_audio.config.top import ModelConfig


def packing_problems(config: ModelConfig, dataset: Mapping[str, Any] | None) -> list[Problem]:
    """Why `config` cannot be trained on `dataset`; nothing where the dataset does not pack.

    Args:
        dataset: content of a valid dataset file.
    """
    if dataset is None or dataset.get("pack_length") is None:
        return []
    if not config.model_type.startswith("diffusion_") or config.model_type == "diffusion_autoencoder":
        message = f"found '{config.model_type}', but only diffusion models train on rows of several clips"
        return [Problem("$.model_type", f"{message}; {_REMEDY}")]
    data = config.as_dict()
    return [*_backbone_problems(data), *_training_problems(data.get("training") or {}, data)]


_REMEDY = "remove pack_length from the dataset file, or use bucket_lengths there"


def _backbone_problems(data: dict[str, Any]) -> Iterator[Problem]:
    backbone = gather(data).backbone
    if backbone is not None and backbone.packing_obstacles:
        loc = ("model", "diffusion", "config") if "diffusion" in data["model"] else ("model", "config")
        found = ", ".join(backbone.packing_obstacles)
        yield Problem(
            json_path(loc),
            f"clips cannot share a row with {found}; use the backbone 'dit' without it, {_REMEDY}",
        )


def _training_problems(training: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[Problem]:
    if data["model"].get("pretransform") is not None and not training.get("pre_encoded"):
        yield Problem(
            json_path(("training", "pre_encoded")),
            "must be true, since rows of several clips are made of latents",
        )
    for name, term in (training.get("loss_configs") or {}).items():
        if term.get("type") == "spectral":
            yield Problem(
                json_path(("training", "loss_configs", name)),
                f"a spectral loss looks across the padding between clips; remove it, or {_REMEDY}",
            )
