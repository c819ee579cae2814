"""What must hold between a model file and a dataset file: sound or latents, and clips that share rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.backbones.base import Backbone
from stable_audio.config.reporting.problems import Problem, json_path
from stable_audio.config.sections.dataset import DatasetConfig
from stable_audio.config.sections.top import ModelConfig


def latents_problems(config: ModelConfig, dataset: DatasetConfig | None) -> list[Problem]:
    """Mistakes by which `config` would take the latents of `dataset` for sound, or its sound for latents."""
    if dataset is None:
        return []
    has_latents = dataset.dataset_type == "pre_encoded" or bool(getattr(dataset, "pre_encoded", False))
    if config.model_type in ("autoencoder", "diffusion_autoencoder"):
        message = (
            f"found '{config.model_type}', which learns from sound, but the dataset file describes latents"
        )
        return [Problem("$.model_type", message)] if has_latents else []
    data = config.as_dict()
    expected = bool((data.get("training") or {}).get("pre_encoded"))
    where = json_path(("training", "pre_encoded"))
    if has_latents and not expected and data["model"].get("pretransform") is not None:
        return [Problem(where, "must be true, since the dataset file describes latents, not sound to encode")]
    if expected and not has_latents:
        message = "found true, but the dataset file describes sound; remove it, or name a folder of latents"
        return [Problem(where, message)]
    return []


def cache_problems(config: ModelConfig, dataset: DatasetConfig | None) -> list[Problem]:
    """Reasons why the latents of the clips of `dataset` cannot be kept; none if they are not to be."""
    data = config.as_dict()
    training = data.get("training") or {}
    if dataset is None or not training.get("cache_latents"):
        return []
    pretransform = data["model"].get("pretransform")
    return [
        Problem(json_path(("training", "cache_latents")), f"found true, but {reason}; remove it")
        for reason, applies in {
            "the dataset file describes latents already": training.get("pre_encoded"),
            "the model has no pretransform, so there is nothing to encode": pretransform is None,
            "the pretransform is trained along (enable_grad)": (pretransform or {}).get("enable_grad"),
            "clips share rows (pack_length)": packs(dataset),
            f"clips change from epoch to epoch ({', '.join(_changes(dataset))})": _changes(dataset),
        }.items()
        if applies
    ]


def _changes(dataset: DatasetConfig) -> list[str]:
    """Keys of a dataset file by which a clip is another one each time."""
    changes = [name for name in ("random_crop", "phase_flip", "volume_norm") if getattr(dataset, name, 0)]
    entries = getattr(dataset, "datasets", None) or []
    if any(getattr(entry, "custom_metadata_module", None) for entry in entries):
        changes.append("custom_metadata_module")
    return changes


def packs(dataset: DatasetConfig | None) -> bool:
    """Whether the clips of a dataset file share rows."""
    return getattr(dataset, "pack_length", None) is not None


def packing_problems(
    config: ModelConfig, dataset: DatasetConfig | None, backbone: Backbone | None
) -> list[Problem]:
    """Reasons why `config` cannot be trained on `dataset`; none if the dataset does not pack clips into rows.

    Args:
        config: the model file.
        dataset: the dataset file.
        backbone: the backbone of `config`, possibly on the meta device; None: it is not checked.
    """
    if not packs(dataset):
        return []
    if not config.model_type.startswith("diffusion_") or config.model_type == "diffusion_autoencoder":
        message = f"found '{config.model_type}', but only diffusion models train on rows of several clips"
        return [Problem("$.model_type", f"{message}; {_REMEDY}")]
    data = config.as_dict()
    return [*_backbone_problems(data, backbone), *_training_problems(data.get("training") or {}, data)]


_REMEDY = "remove pack_length from the dataset file, or use bucket_lengths there"


def _backbone_problems(data: dict[str, Any], backbone: Backbone | None) -> Iterator[Problem]:
    if backbone is not None and backbone.packing_obstacles:
        loc = ("model", "diffusion", "config") if "diffusion" in data["model"] else ("model", "config")
        obstacles = ", ".join(backbone.packing_obstacles)
        yield Problem(
            json_path(loc),
            f"clips cannot share a row with {obstacles}; use the backbone 'dit' without it, {_REMEDY}",
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
