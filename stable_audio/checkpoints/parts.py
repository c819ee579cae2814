"""Parts of a model for separate files: weights, under the names that loading expects, and their config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import OURS, PRETRANSFORM_MODEL, strip
from stable_audio.pretransforms.autoencoder import Autoencoder

Part = Literal["model", "backbone", "conditioner", "pretransform"]
PREFIXES: dict[str, str] = {"backbone": OURS, "conditioner": "conditioner."}


def part_of(
    model: nn.Module, config: Mapping[str, Any], part: Part = "model"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights in our layout, config) of a model or of one part of it.

    A pretransform is returned as an autoencoder; the other parts keep their prefix and the whole config.

    Raises:
        CheckpointError: the model has no such part, or one without weights.
    """
    if part == "model":
        return model.state_dict(), dict(config)
    if part == "pretransform":
        return _autoencoder(model, config)
    tensors = {k: v for k, v in model.state_dict().items() if k.startswith(PREFIXES[part])}
    if not tensors:
        raise CheckpointError(f"the {config.get('model_type')} model has no {part} with weights to export")
    return tensors, dict(config)


def _autoencoder(model: nn.Module, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if isinstance(model, Autoencoder):
        return model.state_dict(), dict(config)
    section = config["model"].get("pretransform") or {}
    tensors = strip(model.state_dict(), PRETRANSFORM_MODEL)
    if section.get("type") != "autoencoder" or not tensors:
        kind = section.get("type") or "no pretransform"
        raise CheckpointError(
            f"only an autoencoder can be exported as a pretransform, but the model has {kind}"
        )
    spec = dict(section["config"])
    if section.get("scale") is not None:
        spec["latent_scale"] = section["scale"]
    ratio, size = spec["downsampling_ratio"], config["sample_size"]
    return tensors, {
        "model_type": "autoencoder",
        "sample_rate": config["sample_rate"],
        "sample_size": max(1, size // ratio) * ratio,
        "audio_channels": spec["io_channels"],
        "model": spec,
    }
