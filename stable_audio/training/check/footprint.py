"""Sizes of a model, counted on shapes: parameters, slots, memory in training, checkpoints."""

from __future__ import annotations

from typing import Any

from torch import nn

from stable_audio.conditioning.inpainting import INPAINT_INPUT, INPAINT_MASK
from stable_audio.config import ModelConfig
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.inference.memory.encoders import frozen_encoders
from stable_audio.model import DiffusionModel
from stable_audio.pretransforms import Autoencoder
from stable_audio.training.memory_plan import Planner, choice_of
from stable_audio.training.options import RunOptions

Report = dict[str, Any]


def describe(model: DiffusionModel, config: ModelConfig) -> Report:
    """Sizes of a diffusion model on the meta device."""
    return {
        "model_type": config.model_type,
        "parameters": count_parameters(model),
        "shape": {
            "latents": list(model.latent_shape),
            "audio_channels": model.audio_channels,
            "sample_size": model.sample_size,
            "sample_rate": model.sample_rate,
            "seconds": model.sample_size / model.sample_rate,
            "downsampling_ratio": model.downsampling_ratio,
            "length_multiple": model.length_multiple,
        },
        "slots": _slots(model),
        "checkpoint": _checkpoint(model, config),
    }


def describe_autoencoder(model: Autoencoder | DiffusionAutoencoder, config: ModelConfig) -> Report:
    """Sizes of an autoencoder on the meta device, without its discriminator."""
    names = ("encoder", "bottleneck", "decoder", "pretransform", "diffusion")
    parts = {name: _count(getattr(model, name)) for name in names if hasattr(model, name)}
    trainable = _trained(model)
    total = sum(parts.values())
    ema = 4 * trainable if config.training is not None and config.training.use_ema else 0
    state = _state_bytes(model)
    return {
        "model_type": config.model_type,
        "parameters": {**parts, "total": total, "trainable": trainable},
        "shape": {
            "latents": _autoencoder_latents(model, config.sample_size),
            "audio_channels": model.io_channels,
            "sample_size": config.sample_size,
            "sample_rate": config.sample_rate,
            "seconds": config.sample_size / config.sample_rate,
            "downsampling_ratio": model.downsampling_ratio,
            "length_multiple": model.downsampling_ratio,
        },
        "checkpoint": {"training": state + 8 * trainable + ema, "inference": state},
    }


def _autoencoder_latents(model: Autoencoder | DiffusionAutoencoder, sample_size: int) -> list[int]:
    rows = getattr(model, "latent_height", None)
    return [model.latent_dim, *([] if rows is None else [rows]), sample_size // model.downsampling_ratio]


def count_parameters(model: DiffusionModel) -> dict[str, int]:
    """Parameters per part. `text_encoder` is frozen encoders, which are not in checkpoints nor in `total`."""
    parts = {
        "backbone": _count(model.backbone),
        "conditioner": _count(model.conditioner),
        "pretransform": _count(model.pretransform),
    }
    return {
        **parts,
        "total": sum(parts.values()),
        "trainable": _trained(model),
        "text_encoder": frozen_encoders(model).parameters,
    }


def _count(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _slots(model: DiffusionModel) -> dict[str, Any]:
    conditioners: dict[str, Any] = (
        dict(model.conditioner.conditioners) if model.conditioner is not None else {}
    )
    widths = {key: conditioner.output_dim for key, conditioner in conditioners.items()}
    widths |= {INPAINT_MASK: 1, INPAINT_INPUT: model.io_channels}
    return {
        slot.value: {"width": width, "ids": {i: widths.get(i) for i in model.wiring.ids[slot]}}
        for slot, width in model.backbone.slot_widths.items()
    }


def planned_memory(config: ModelConfig, *, batch_size: int) -> Report:
    """The plan of training in float32 on any device, without what its libraries take.

    Raises:
        anything: the steps of the model cannot be followed.
    """
    plan = Planner(config, device="cuda").plan(
        choice_of(config, RunOptions(batch_size=batch_size), precision="32-true")
    )
    parts = {name: size for name, size in plan.parts.items() if name != "reserve"}
    return {
        "total": plan.without_libraries,
        "batch_size": batch_size,
        "parts": parts,
        "assumptions": ["in float32; `stable-audio plan` has other settings and devices", *plan.assumptions],
    }


def _checkpoint(model: DiffusionModel, config: ModelConfig) -> dict[str, int]:
    counts = count_parameters(model)
    state = _state_bytes(model)
    ema = config.training is None or config.training.use_ema
    resume = state + 8 * counts["trainable"] + (4 * _trained(model.backbone) if ema else 0)
    return {"training": resume, "inference": state}


def _state_bytes(model: nn.Module) -> int:
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())
