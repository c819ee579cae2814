"""Write the folders of diffusers' Stable Audio layout, completely or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stable_audio.audio.atomic import atomic_entries
from stable_audio.checkpoints.diffusers import configs, limits, weights
from stable_audio.checkpoints.diffusers.tables import START, TEXT, TOTAL
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import OURS
from stable_audio.checkpoints.parts import Part, part_of
from stable_audio.model import DiffusionModel

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "model_index.json"


def export_diffusers(
    model: DiffusionModel, folder: str | Path, *, config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Path:
    """Write `model` as a folder that `StableAudioPipeline.from_pretrained(folder)` reads.

    It writes `transformer`, `vae`, `projection_model`, `text_encoder`, `tokenizer` (whose `model_max_length`
    is the conditioner's `max_length`), `scheduler` and `model_index.json`. Existing ones are replaced; other
    files in the folder stay.

    Args:
        config: the model config as a dictionary.
        dtype: type of all weights, including the text encoder's; None: that of the backbone.

    Raises:
        CheckpointError: the layout cannot hold the model (the message has all reasons), or the text encoder
            or its tokenizer cannot be loaded. Nothing is written then.
    """
    limits.refuse(limits.unsupported(config))
    dtype = model.dtype if dtype is None else dtype
    autoencoder = config["model"]["pretransform"]["config"]
    conditioners = cast(Any, model.conditioner).conditioners
    prompt, start, total = (conditioners[name] for name in (TEXT, START, TOTAL))
    encoder, tokenizer = _text_encoder(prompt, dtype)
    with atomic_entries(folder, last=INDEX) as into:
        _write(into / "transformer", *_backbone(model, config), dtype=dtype)
        state = weights.oobleck_state(
            weights.below(cast(nn.Module, model.pretransform).state_dict(), "model.")
        )
        _write(into / "vae", state, configs.oobleck_config(autoencoder, model.sample_rate), dtype=dtype)
        projection = weights.projection_state(prompt, start, total)
        _write(into / "projection_model", projection, configs.projection_config(prompt, start), dtype=dtype)
        encoder.save_pretrained(into / "text_encoder")
        tokenizer.save_pretrained(into / "tokenizer")
        _write_json(into / "scheduler" / "scheduler_config.json", configs.SCHEDULER)
        _write_json(
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
    """Write the backbone alone, as `StableAudioDiTModel.from_pretrained(folder)` reads it.

    Args:
        config: the model config as a dictionary.
        dtype: dtype of the exported weights; None leaves them as they are.

    Raises:
        CheckpointError: the layout cannot hold it, with all reasons.
    """
    limits.refuse(limits.unsupported_backbone(config))
    with atomic_entries(folder, last="config.json") as into:
        _write(into, *_backbone(cast(DiffusionModel, model), config), dtype=dtype)
    return Path(folder)


def export_diffusers_autoencoder(
    model: nn.Module, folder: str | Path, *, config: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Path:
    """Write an autoencoder, or that of a model, as `AutoencoderOobleck.from_pretrained(folder)` reads it.

    The layout has no `scale`: its latents are not divided by that of the model.

    Args:
        config: the model config as a dictionary.
        dtype: dtype of the exported weights; None leaves them as they are.

    Raises:
        CheckpointError: the layout cannot hold it, with all reasons.
    """
    tensors, alone = part_of(model, config, "pretransform")
    path = "model" if config.get("model_type") == "autoencoder" else "model.pretransform.config"
    limits.refuse(limits.unsupported_autoencoder(alone["model"], path))
    options = configs.oobleck_config(alone["model"], alone["sample_rate"])
    with atomic_entries(folder, last="config.json") as into:
        _write(into, weights.oobleck_state(tensors), options, dtype=dtype)
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


def _backbone(model: DiffusionModel, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, _ = part_of(model, config, "backbone")
    options = config["model"]["diffusion"].get("config") or {}
    return weights.dit_state(weights.below(tensors, OURS)), configs.dit_config(
        options, model.latent_shape[-1]
    )


def _text_encoder(prompt: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """Copies of the encoder and the tokenizer of a T5 conditioner, which stays as it is."""
    try:
        encoder, tokenizer = prompt.encoder("cpu"), copy.deepcopy(prompt.tokenizer)
    except (OSError, ImportError) as error:
        raise CheckpointError(
            f"a pipeline of diffusers contains its text encoder, but {error}; --part backbone and "
            "--part pretransform need none"
        ) from error
    # diffusers pads and cuts prompts to this length.
    tokenizer.model_max_length = prompt.max_length
    return copy.deepcopy(encoder).to(dtype), tokenizer


def _write(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, dtype: torch.dtype | None
) -> None:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    tensors_on_cpu = {k: v.detach().to("cpu", dtype, copy=True).contiguous() for k, v in tensors.items()}
    save_file(tensors_on_cpu, str(folder / WEIGHTS), {"format": "pt"})
    _write_json(folder / "config.json", config)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
