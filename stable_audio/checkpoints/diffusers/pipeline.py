"""Write the folders of diffusers' Stable Audio layout, completely or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stable_audio.audio.atomic import atomic_entries
from stable_audio.checkpoints.diffusers import configs, limits, weights
from stable_audio.checkpoints.diffusers.files import INDEX, text_encoder, write_json, write_part
from stable_audio.checkpoints.diffusers.stable_audio_3 import limits as limits_3
from stable_audio.checkpoints.diffusers.stable_audio_3 import writing as writing_3
from stable_audio.checkpoints.diffusers.tables import START, TEXT, TOTAL
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import OURS
from stable_audio.checkpoints.parts import Part, part_of
from stable_audio.model import DiffusionModel


def export_diffusers(
    model: DiffusionModel, folder: str | Path, *, config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Path:
    """Write `model` as a folder that `from_pretrained(folder)` of `StableAudioPipeline` reads, or of
    `StableAudio3Pipeline`, whichever layout can hold it.

    The former gets `transformer`, `vae`, `projection_model`, `text_encoder`, `tokenizer` (whose
    `model_max_length` is the conditioner's `max_length`), `scheduler` and `model_index.json`; the latter has
    a `duration_embedder` instead of the projection. Existing ones are replaced; other files in the folder
    stay.

    Args:
        config: the model config as a dictionary.
        dtype: type of all weights, including the text encoder's; None: that of the backbone.

    Raises:
        CheckpointError: the layout cannot hold the model (the message has all reasons), or the text encoder
            or its tokenizer cannot be loaded. Nothing is written then.
    """
    dtype = model.dtype if dtype is None else dtype
    backbone = limits.unsupported_backbone(config), limits_3.unsupported_backbone(config)
    reasons = limits.unsupported(config), limits_3.unsupported(config)
    if _of_stable_audio_3(*reasons, likely=len(backbone[1]) < len(backbone[0])):
        writing_3.write_pipeline(model, Path(folder), config=config, dtype=dtype)
        return Path(folder)
    autoencoder = config["model"]["pretransform"]["config"]
    conditioners = cast(Any, model.conditioner).conditioners
    prompt, start, total = (conditioners[name] for name in (TEXT, START, TOTAL))
    encoder, tokenizer = text_encoder(prompt, dtype)
    with atomic_entries(folder, last=INDEX) as into:
        write_part(into / "transformer", *_backbone(model, config), dtype=dtype)
        state = weights.oobleck_state(
            weights.below(cast(nn.Module, model.pretransform).state_dict(), "model.")
        )
        write_part(into / "vae", state, configs.oobleck_config(autoencoder, model.sample_rate), dtype=dtype)
        projection = weights.projection_state(prompt, start, total)
        write_part(
            into / "projection_model", projection, configs.projection_config(prompt, start), dtype=dtype
        )
        encoder.save_pretrained(into / "text_encoder")
        tokenizer.save_pretrained(into / "tokenizer")
        write_json(into / "scheduler" / "scheduler_config.json", configs.SCHEDULER)
        write_json(
            into / INDEX,
            {
                "_class_name": "StableAudioPipeline",
                "transformer": ["diffusers", "StableAudioDiTModel"],
                "vae": ["diffusers", "AutoencoderOobleck"],
                "projection_model": ["stable_audio", "StableAudioProjectionModel"],
                "text_encoder": ["transformers", "T5EncoderModel"],
                "tokenizer": ["transformers", type(tokenizer).__name__],
                "scheduler": ["diffusers", configs.SCHEDULER["_class_name"]],
            },
        )
    return Path(folder)


def export_diffusers_backbone(
    model: nn.Module, folder: str | Path, *, config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Path:
    """Write the backbone alone, as `from_pretrained(folder)` of `StableAudioDiTModel` or of
    `StableAudio3DiTModel` reads it, whichever can hold it.

    Args:
        config: the model config as a dictionary.
        dtype: dtype of the exported weights; None leaves them as they are.

    Raises:
        CheckpointError: the layout cannot hold it, with all reasons.
    """
    reasons = limits.unsupported_backbone(config), limits_3.unsupported_backbone(config)
    third = _of_stable_audio_3(*reasons, likely=len(reasons[1]) < len(reasons[0]))
    read = writing_3.backbone if third else _backbone
    with atomic_entries(folder, last="config.json") as into:
        write_part(into, *read(cast(DiffusionModel, model), config), dtype=dtype)
    return Path(folder)


def export_diffusers_autoencoder(
    model: nn.Module, folder: str | Path, *, config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Path:
    """Write an autoencoder, or that of a model, as `from_pretrained(folder)` of `AutoencoderOobleck` or of
    `AutoencoderSAME` reads it, whichever can hold it.

    The layout has no `scale`: its latents are not divided by that of the model.

    Args:
        config: the model config as a dictionary.
        dtype: dtype of the exported weights; None leaves them as they are.

    Raises:
        CheckpointError: the layout cannot hold it, with all reasons.
    """
    tensors, alone = part_of(model, config, "pretransform")
    path = "model" if config.get("model_type") == "autoencoder" else "model.pretransform.config"
    spec, rate = alone["model"], alone["sample_rate"]
    reasons = limits.unsupported_autoencoder(spec, path), limits_3.unsupported_autoencoder(spec, path)
    if _of_stable_audio_3(*reasons, likely=len(reasons[1]) < len(reasons[0])):
        written = writing_3.vae(tensors, spec, rate)
    else:
        written = weights.oobleck_state(tensors), configs.oobleck_config(spec, rate)
    with atomic_entries(folder, last="config.json") as into:
        write_part(into, *written, dtype=dtype)
    return Path(folder)


def export_diffusers_part(
    model: nn.Module,
    folder: str | Path,
    *,
    config: Mapping[str, Any],
    part: Part = "model",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a whole model as a pipeline, or one part of it, by the function of this module for that part.

    Args:
        config: the model config as a dictionary.
        dtype: as for those functions.

    Raises:
        CheckpointError: the layout has no such part or cannot hold it, with all reasons.
    """
    if part not in _WRITERS:
        raise CheckpointError(
            f"--part {part}: diffusers keeps conditioners in a pipeline; leave --part out, or use "
            "--layout ours or sat"
        )
    if not isinstance(model, DiffusionModel) and part != "pretransform":
        raise CheckpointError(
            "only diffusion models have a pipeline in the layout of diffusers; an autoencoder is exported by "
            "--part pretransform"
        )
    return _WRITERS[part](model, folder, config=config, dtype=dtype)


_WRITERS: dict[str, Callable[..., Path]] = {
    "model": export_diffusers,
    "backbone": export_diffusers_backbone,
    "pretransform": export_diffusers_autoencoder,
}


def _of_stable_audio_3(first: list[str], third: list[str], *, likely: bool) -> bool:
    """Whether the layout of Stable Audio 3 holds a model; otherwise that of Stable Audio does.

    Args:
        first: reasons why that of Stable Audio does not.
        third: reasons why that of Stable Audio 3 does not.
        likely: whether it comes nearer.

    Raises:
        CheckpointError: neither does, with the reasons of the nearer one.
    """
    if first and third:
        limits.refuse(third if likely else first, layout="Stable Audio 3" if likely else "Stable Audio")
    return bool(first)


def _backbone(model: DiffusionModel, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, _ = part_of(model, config, "backbone")
    options = config["model"]["diffusion"].get("config") or {}
    return weights.dit_state(weights.below(tensors, OURS)), configs.dit_config(
        options, model.latent_shape[-1]
    )
