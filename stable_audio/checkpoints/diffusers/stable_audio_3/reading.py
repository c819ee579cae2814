"""Read folders of diffusers' Stable Audio 3 layout as checkpoints of ours: names of weights, and a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.audio.json_files import read_json_object
from stable_audio.checkpoints.diffusers.files import CONFIG, INDEX
from stable_audio.checkpoints.diffusers.stable_audio_3 import configs, weights
from stable_audio.checkpoints.diffusers.stable_audio_3.tables import TEXT, TOTAL
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.keys import OURS, PRETRANSFORM_MODEL
from stable_audio.stored.safetensors_files import read_safetensors

Contents = tuple[dict[str, Tensor], dict[str, Any] | None]
"""Weights under our names, and the model config."""


def read_folder(folder: Path) -> Contents:
    """The model, the autoencoder or the backbone in a folder of the layout.

    Args:
        folder: that of a pipeline, or `transformer` or `vae` of one. A transformer beside the other parts of
            a pipeline stands for the whole of it; alone it is a backbone, without a config.

    Raises:
        CheckpointError: a file is missing or cannot be read, or the layout is another one.
    """
    try:
        return _read(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{folder}: its files of settings or of weights lack {error}") from error


def _read(folder: Path) -> Contents:
    pipeline = folder if (folder / INDEX).is_file() else folder.parent
    if folder.name != "vae" and (pipeline / INDEX).is_file():
        return _pipeline(pipeline)
    config = read_json_object(folder / CONFIG)
    name = config.get("_class_name")
    if name == configs.VAE_CLASS:
        return _autoencoder(folder, config)
    if name == configs.DIT_CLASS:
        state = weights.dit_state_from(_tensors(folder))
        state.pop(weights.PADDING, None)
        return {OURS + key: value for key, value in state.items()}, None
    raise ValueError(f"holds a {name}, but {configs.VAE_CLASS}, {configs.DIT_CLASS} or a pipeline is needed")


def _pipeline(folder: Path) -> Contents:
    name = str(read_json_object(folder / INDEX).get("_class_name"))
    if not name.startswith(configs.PIPELINE):  # also those for inpainting and from audio
        raise ValueError(f"holds a {name}, but of pipelines only {configs.PIPELINE} can be read")
    parts = {part: read_json_object(folder / part / CONFIG) for part in ("transformer", "vae")}
    duration = read_json_object(folder / "duration_embedder" / CONFIG)
    scheduler = read_json_object(folder / "scheduler" / "scheduler_config.json")
    text = {
        "model_path": str(folder.absolute()),
        "subfolder": "text_encoder",
        "max_length": _max_length(folder),
        "padding_mode": "learned",
    }
    config = configs.model_config(parts["transformer"], parts["vae"], duration, scheduler, text)
    state = weights.dit_state_from(_tensors(folder / "transformer"))
    padding = state.pop(weights.PADDING)
    coder = weights.same_state_from(_tensors(folder / "vae"), len(parts["vae"]["encoder_strides"]))
    number = weights.number_state_from(_tensors(folder / "duration_embedder"))
    return {
        **{OURS + key: value for key, value in state.items()},
        **{PRETRANSFORM_MODEL + key: value for key, value in coder.items()},
        **{f"conditioner.conditioners.{TOTAL}.{key}": value for key, value in number.items()},
        f"conditioner.conditioners.{TEXT}.padding_embedding": padding,
    }, config


def _autoencoder(folder: Path, config: Mapping[str, Any]) -> Contents:
    spec = configs.autoencoder_spec(config)
    ratio = spec["downsampling_ratio"]
    state = weights.same_state_from(_tensors(folder), len(config["encoder_strides"]))
    return state, {
        "model_type": "autoencoder",
        "sample_rate": config["sampling_rate"],
        "sample_size": max(1, config["sampling_rate"] // ratio) * ratio,
        "audio_channels": spec["io_channels"],
        "model": spec,
    }


def _max_length(folder: Path) -> int:
    """Tokens per prompt: those of the tokenizer, of which diffusers takes 256 at most."""
    path = folder / "tokenizer" / "tokenizer_config.json"
    stored = read_json_object(path).get("model_max_length", 256) if path.is_file() else 256
    return int(min(stored, 256))


def _tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no diffusion_pytorch_model.safetensors")
    tensors: dict[str, Tensor] = {}
    for file in files:  # several where the weights were split
        tensors |= read_safetensors(file)[0]
    return tensors
