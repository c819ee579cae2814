"""Files of diffusers' layouts."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.stored.safetensors_files import write_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG, INDEX = "config.json", "model_index.json"


def write_part(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, dtype: torch.dtype | None
) -> None:
    """Write weights and settings of one network."""
    tensors_on_cpu = {k: v.detach().to("cpu", dtype, copy=True).contiguous() for k, v in tensors.items()}
    write_safetensors(folder / WEIGHTS, tensors_on_cpu, {"format": "pt"})
    write_json(folder / CONFIG, config)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of settings."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def text_encoder(prompt: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """Copies of the encoder and the tokenizer of a text conditioner, which stays as it is."""
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
