"""Configurations -> models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from stable_audio.config.sections.diffusion import SLOT_KEYS
from stable_audio.config.sections.top import ModelConfig
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.factory.backbones import (
    build_backbone,
    build_objective,
    build_sampling_defaults,
    build_sampling_shift,
    build_shift,
    build_uncond_backbone,
)
from stable_audio.factory.conditioning import build_conditioning, build_wiring
from stable_audio.factory.freezing import freeze_as_configured
from stable_audio.factory.loading import load_config
from stable_audio.factory.pretransforms import (
    build_autoencoder,
    build_diffusion_autoencoder,
    build_pretransform,
)
from stable_audio.model import DiffusionModel
from stable_audio.nn.unfilled import Unfilled
from stable_audio.pretransforms import Autoencoder


def create_model_from_config(
    config: ModelConfig | Mapping[str, Any] | str | os.PathLike[str],
    *,
    extra_ids: Sequence[str] = (),
    skip_rules: Sequence[str] = (),
    device: torch.device | str | None = None,
    unfilled: bool = False,
) -> Any:
    """Build the model that a configuration describes, with fresh weights, of which it may freeze some.

    Args:
        config: a loaded configuration, its dict, or the path of its file.
        extra_ids: as for `load_config`; only if `config` is not loaded yet.
        skip_rules: as for `load_config`; only if `config` is not loaded yet.
        device: device of the weights; "meta" builds shapes only, without memory.
        unfilled: build backbone, pretransform and trained encoders without weights, to be filled by loading,
            which saves memory and random numbers; see `stable_audio.nn.unfilled`.

    Raises:
        ConfigError: with every mistake of the configuration.
    """
    if not isinstance(config, ModelConfig):
        config = load_config(config, extra_ids=extra_ids, skip_rules=skip_rules)
    with torch.device(device if device is not None else torch.get_default_device()):
        model = BUILDERS[config.model_type](config, Unfilled() if unfilled else nullcontext())
    freeze_as_configured(model, config)
    return model


Networks = AbstractContextManager[Any]
"""Context in which backbones and pretransforms are built."""


def build_cond(config: ModelConfig, networks: Networks) -> DiffusionModel:
    """`diffusion_cond` and `diffusion_cond_inpaint`."""
    section = config.model
    with networks:
        pretransform = build_pretransform(section.pretransform) if section.pretransform is not None else None
        backbone = build_backbone(section.diffusion)
    wired = [ids for key in SLOT_KEYS.values() for ids in getattr(section.diffusion, key)]
    optional = [name for name in backbone.modular_local_dims if name not in wired]
    conditioner = build_conditioning(
        section.conditioning, pretransform=pretransform, optional_ids=optional, networks=networks
    )
    return DiffusionModel(
        backbone=backbone,
        objective=build_objective(section.diffusion),
        conditioner=conditioner,
        wiring=build_wiring(section.diffusion, conditioner=conditioner, backbone=backbone),
        pretransform=pretransform,
        sample_rate=config.sample_rate,
        sample_size=config.sample_size,
        audio_channels=section.io_channels if pretransform is None else pretransform.io_channels,
        dist_shift=build_shift(section.diffusion),
        sampling_shift=build_sampling_shift(section.diffusion),
        sampling_defaults=build_sampling_defaults(section.diffusion),
        mask_padding_attention=_in_either(config, "mask_padding_attention"),
        use_effective_length=_in_either(config, "use_effective_length_for_schedule"),
    )


def _in_either(config: ModelConfig, key: str) -> bool:
    """Whether a switch is on in `model.diffusion`, or in `training`, where it may stand, too."""
    return getattr(config.model.diffusion, key) or getattr(config.training, key, False)


def build_uncond(config: ModelConfig, networks: Networks) -> DiffusionModel:
    """`diffusion_uncond`."""
    section = config.model
    with networks:
        pretransform = build_pretransform(section.pretransform) if section.pretransform is not None else None
        backbone = build_uncond_backbone(section.diffusion)
    return DiffusionModel(
        backbone=backbone,
        objective=build_objective(section.diffusion),
        pretransform=pretransform,
        sample_rate=config.sample_rate,
        sample_size=config.sample_size,
        audio_channels=backbone.io_channels if pretransform is None else pretransform.io_channels,
        dist_shift=build_shift(section.diffusion),
        sampling_shift=build_sampling_shift(section.diffusion),
        sampling_defaults=build_sampling_defaults(section.diffusion),
    )


def build_autoencoder_model(config: ModelConfig, networks: Networks) -> Autoencoder:
    """`autoencoder`."""
    with networks:
        return build_autoencoder(config.model, sample_rate=config.sample_rate)


def build_diffusion_autoencoder_model(config: ModelConfig, networks: Networks) -> DiffusionAutoencoder:
    """`diffusion_autoencoder`."""
    with networks:
        return build_diffusion_autoencoder(config.model, sample_rate=config.sample_rate)


BUILDERS: dict[str, Callable[[Any, Networks], nn.Module]] = {
    "diffusion_cond": build_cond,
    "diffusion_cond_inpaint": build_cond,
    "diffusion_uncond": build_uncond,
    "autoencoder": build_autoencoder_model,
    "diffusion_autoencoder": build_diffusion_autoencoder_model,
}
"""`model_type` -> builder of the model. How it is trained is for `training.methods.METHODS` to say."""
