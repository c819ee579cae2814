"""Write the folders of diffusers' Stable Audio 3 layout; `pipeline` says what each holds and refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stable_audio.audio.atomic import atomic_entries
from stable_audio.checkpoints.diffusers.files import INDEX, text_encoder, write_json, write_part
from stable_audio.checkpoints.diffusers.stable_audio_3 import configs, weights
from stable_audio.checkpoints.diffusers.stable_audio_3.tables import TEXT, TOTAL
from stable_audio.checkpoints.diffusers.weights import below
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import OURS, PRETRANSFORM_MODEL
from stable_audio.model import DiffusionModel

FOLDERS = ("transformer", "vae", "duration_embedder", "scheduler")


def write_pipeline(
    model: DiffusionModel, folder: Path, *, config: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Write a model that the layout holds as `StableAudio3Pipeline.from_pretrained(folder)` reads it.

    Raises:
        CheckpointError: the text encoder has another width than the conditioning, or cannot be loaded.
    """
    conditioners = cast(Any, model.conditioner).conditioners
    prompt, total = conditioners[TEXT], conditioners[TOTAL]
    if not isinstance(prompt.proj_out, nn.Identity):
        raise CheckpointError(
            f"diffusers' Stable Audio 3 layout cannot hold this model: '{TEXT}' projects its encoder's "
            f"features to cond_dim {prompt.output_dim}, but the layout has no projection"
        )
    encoder, tokenizer = text_encoder(prompt, dtype)
    autoencoder = config["model"]["pretransform"]["config"]
    objective = config["model"]["diffusion"]["diffusion_objective"]
    state = model.state_dict()
    with atomic_entries(folder, last=INDEX) as into:
        write_part(into / "transformer", *backbone(model, config), dtype=dtype)
        coder = below(state, PRETRANSFORM_MODEL)
        write_part(into / "vae", *vae(coder, autoencoder, model.sample_rate), dtype=dtype)
        duration = weights.number_state(total.state_dict())
        write_part(into / "duration_embedder", duration, configs.number_config(total), dtype=dtype)
        encoder.save_pretrained(into / "text_encoder")
        tokenizer.save_pretrained(into / "tokenizer")
        scheduler = configs.scheduler_config(objective)
        write_json(into / "scheduler" / "scheduler_config.json", scheduler)
        write_json(
            into / INDEX,
            {
                "_class_name": configs.PIPELINE,
                "transformer": ["diffusers", configs.DIT_CLASS],
                "vae": ["diffusers", configs.VAE_CLASS],
                "duration_embedder": ["stable_audio_3", configs.NUMBER_CLASS],
                "text_encoder": ["transformers", type(encoder).__name__],
                "tokenizer": ["transformers", type(tokenizer).__name__],
                "scheduler": ["diffusers", scheduler["_class_name"]],
            },
        )


def backbone(model: DiffusionModel, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config.json of the transformer; the embedding of padding is the text conditioner's."""
    state = model.state_dict()
    options = config["model"]["diffusion"].get("config") or {}
    written = configs.dit_config(options)
    tensors = weights.dit_state(below(state, OURS), written["io_channels"])
    padding = state.get(f"conditioner.conditioners.{TEXT}.padding_embedding")
    # Padding that is set to zero is the same as a vector of zeros in its place.
    absent = torch.zeros(written["cond_token_dim"])
    return {**tensors, weights.PADDING: absent if padding is None else padding}, written


def vae(
    state: Mapping[str, Tensor], spec: Mapping[str, Any], sample_rate: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and config.json of the autoencoder."""
    written = configs.same_config(spec, sample_rate)
    return weights.same_state(state, len(written["encoder_strides"])), written
