"""Sizes of a model, counted on shapes: parameters, slots, memory in training, checkpoints."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from torch import nn

from stable_audio.conditioning.inpainting import INPAINT_INPUT, INPAINT_MASK
from stable_audio.config import ModelConfig
from stable_audio.model import DiffusionAutoencoder, DiffusionModel
from stable_audio.pretransforms import Autoencoder
from stable_audio.training.activations import activation_bytes

log = logging.getLogger(__name__)

Report = dict[str, Any]


def describe(model: DiffusionModel, config: ModelConfig, *, batch_size: int) -> Report:
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
        "memory": _memory(model, config, batch_size),
        "checkpoint": _checkpoint(model, config),
    }


def describe_autoencoder(
    model: Autoencoder | DiffusionAutoencoder, config: ModelConfig, *, batch_size: int
) -> Report:
    """Sizes of an autoencoder on the meta device, without its discriminator."""
    names = ("encoder", "bottleneck", "decoder", "pretransform", "diffusion")
    parts = {name: _count(getattr(model, name)) for name in names if hasattr(model, name)}
    trainable = _trained(model)
    total = sum(parts.values())
    memory = {
        "weights": _held(model),
        "gradients": 4 * trainable,
        "optimizer": 8 * trainable,
        "ema": 4 * trainable if config.training is not None and config.training.use_ema else 0,
    }
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
        "memory": {
            "total": sum(memory.values()),
            "batch_size": batch_size,
            "parts": memory,
            "assumptions": ["float32, without activations and discriminator"],
        },
        "checkpoint": {"training": state + memory["optimizer"] + memory["ema"], "inference": state},
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
        "text_encoder": _frozen_encoders(model).parameters,
    }


def _count(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _held(model: nn.Module) -> int:
    """Bytes of all weights; layers that are frozen may be held in less than 32 bits."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


class _FrozenEncoders(NamedTuple):
    """Encoders beside a model; those with equal weights count once.

    Attributes:
        parameters: number of their parameters.
        bytes: memory of their weights; those as stored are taken for float32.
        unknown: why some are not counted, by the id of their conditioner.
    """

    parameters: int
    bytes: int
    unknown: list[str]


def _frozen_encoders(model: DiffusionModel) -> _FrozenEncoders:
    parts: Any = model.conditioner.conditioners.items() if model.conditioner is not None else ()
    networks = {(n.identity(), n.dtype): (key, n) for key, part in parts for n in part.frozen_networks()}
    parameters, held, unknown = 0, 0, []
    for key, network in networks.values():
        try:
            count = network.count()
        # Their configs come from others, and transformers may refuse one or be absent; other sizes are known.
        except (ImportError, OSError, ValueError) as error:
            unknown.append(f"without the frozen encoder of '{key}', which cannot be counted: {error}")
            continue
        parameters += count
        held += count * (4 if network.dtype is None else network.dtype.itemsize)
    return _FrozenEncoders(parameters, held, unknown)


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


def _memory(model: DiffusionModel, config: ModelConfig, batch_size: int) -> dict[str, Any]:
    counts = count_parameters(model)
    training = config.training
    if training is not None and training.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing(training.gradient_checkpointing)
    assumptions = ["weights, gradients and Adam's two averages in float32, frozen encoders in their own type"]
    frozen = _frozen_encoders(model)
    assumptions += frozen.unknown
    parts = {
        "weights": _held(model) + frozen.bytes,
        "gradients": 4 * counts["trainable"],
        "optimizer": 8 * counts["trainable"],
        "ema": 4 * _trained(model.backbone) if training is None or training.use_ema else 0,
    }
    try:
        parts["activations"] = batch_size * activation_bytes(model)
        assumptions.append("activations of the backbone in float32; about half with --precision 16-mixed")
    # Counting runs the network on shapes alone, which may raise anything; the other sizes do not need it.
    except Exception as error:
        log.debug("activations were not counted", exc_info=error)
        assumptions.append("without activations, which could not be counted")
    return {
        "total": sum(parts.values()),
        "batch_size": batch_size,
        "parts": parts,
        "assumptions": assumptions,
    }


def _checkpoint(model: DiffusionModel, config: ModelConfig) -> dict[str, int]:
    counts = count_parameters(model)
    state = _state_bytes(model)
    ema = config.training is None or config.training.use_ema
    resume = state + 8 * counts["trainable"] + (4 * _trained(model.backbone) if ema else 0)
    return {"training": resume, "inference": state}


def _state_bytes(model: nn.Module) -> int:
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())
