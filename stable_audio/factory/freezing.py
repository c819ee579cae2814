"""Keys of a model file that keep parts of its model from training, carried out by the transform `freeze`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from stable_audio.config.sections.pretransform import AutoencoderModel
from stable_audio.config.sections.sounds import SoundLeaf
from stable_audio.config.sections.top import ModelConfig
from stable_audio.transforms.freezing import Freeze, literal, weight_places

_AUTOENCODER_PARTS = ("encoder", "decoder", "bottleneck")
_FIXED_WITH_DECODER_FINETUNE = ("encoder", "bottleneck")  # so that the same audio keeps its latents


def freeze_as_configured(model: nn.Module, config: ModelConfig) -> None:
    """Freeze what `enable_grad`, `requires_grad` and `decoder_finetune` of a config keep from training."""
    places = weight_places(model)
    parts = [part for part in dict.fromkeys(_configured(config)) if part in places]
    Freeze(frozen=[literal(part) for part in parts]).apply(model)


def _configured(config: ModelConfig) -> Iterator[str]:
    """Names of the parts; parts without weights, and those that the model does not hold, are among them."""
    yield from _of_model(config.model)
    if getattr(config.training, "decoder_finetune", False):
        yield from _FIXED_WITH_DECODER_FINETUNE


def _of_model(section: Any, prefix: str = "") -> Iterator[str]:
    for name in _AUTOENCODER_PARTS:
        part = getattr(section, name, None)
        if not getattr(part, "requires_grad", True):
            yield f"{prefix}{name}"
    yield from _of_pretransform(getattr(section, "pretransform", None), f"{prefix}pretransform")
    conditioning = getattr(section, "conditioning", None)
    for entry in conditioning.configs if conditioning is not None else ():
        place = f"conditioner.conditioners.{entry.id}"
        if isinstance(entry.config, SoundLeaf):
            yield from _of_pretransform(entry.config.pretransform_config, f"{place}.pretransform")
        elif not getattr(entry.config, "enable_grad", True):
            yield f"{place}.encoder"


def _of_pretransform(section: Any, place: str) -> Iterator[str]:
    if section is None:
        return
    if not section.enable_grad:
        yield place
    elif isinstance(section.config, AutoencoderModel):
        yield from _of_model(section.config, f"{place}.model.")
