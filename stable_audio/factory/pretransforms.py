"""Sections -> pretransforms and autoencoders."""

from __future__ import annotations

from typing import Any

from torch import nn

from stable_audio.backbones import BACKBONES
from stable_audio.config.schemas.component import Component
from stable_audio.config.sections.diffusion import DiffusionAutoencoderModel
from stable_audio.config.sections.pretransform import AutoencoderModel, Part, PretransformSection
from stable_audio.factory.components import create
from stable_audio.model import DiffusionAutoencoder
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS, PRETRANSFORMS
from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.base import Pretransform

BY_NAME = frozenset({"type", "config", "path", "hash"})
"""Keys of a pretransform section that choose the pretransform; the others are keywords of its constructor."""


def build_pretransform(section: PretransformSection) -> Pretransform:
    """Build a pretransform, which may be an autoencoder."""
    keywords = {name: getattr(section, name) for name in section.model_fields_set - BY_NAME}
    if isinstance(section.config, AutoencoderModel):
        autoencoder = PRETRANSFORMS[section.type](model=build_autoencoder(section.config), **keywords)  # type: ignore[call-arg]
        # `enable_grad` trains the whole autoencoder except for the parts that the file freezes.
        _freeze_parts(autoencoder.model, section.config)
        return autoencoder
    return create(section, PRETRANSFORMS, **keywords)


def build_autoencoder(model: AutoencoderModel, *, sample_rate: int | None = None) -> Autoencoder:
    """Build an autoencoder from its `model` section."""
    keywords = {
        name: getattr(model, name)
        for name in (
            "latent_dim",
            "downsampling_ratio",
            "io_channels",
            "in_channels",
            "out_channels",
            "latent_scale",
        )
    }
    return Autoencoder(
        encoder=_part(model.encoder, ENCODERS),
        decoder=_part(model.decoder, DECODERS),
        bottleneck=_part(model.bottleneck, BOTTLENECKS) if model.bottleneck is not None else None,
        pretransform=build_pretransform(model.pretransform) if model.pretransform is not None else None,
        soft_clip=model.decoder.soft_clip,
        sample_rate=sample_rate,
        **keywords,
    )


def build_diffusion_autoencoder(
    model: DiffusionAutoencoderModel, *, sample_rate: int | None = None
) -> DiffusionAutoencoder:
    """Build a diffusion autoencoder from its `model` section."""
    return DiffusionAutoencoder(
        backbone=create(model.diffusion, BACKBONES),
        encoder=_part(model.encoder, ENCODERS) if model.encoder is not None else None,
        bottleneck=_part(model.bottleneck, BOTTLENECKS) if model.bottleneck is not None else None,
        decoder=_part(model.decoder, DECODERS) if model.decoder is not None else None,
        pretransform=build_pretransform(model.pretransform) if model.pretransform is not None else None,
        latent_dim=model.latent_dim,
        downsampling_ratio=model.downsampling_ratio,
        io_channels=model.io_channels,
        sample_rate=sample_rate,
    )


def _part(section: Part | Component, registry: dict[str, Any]) -> Any:
    part: nn.Module = create(section, registry)
    # `requires_grad` true must not unfreeze parameters that the part itself freezes.
    return part if getattr(section, "requires_grad", True) else part.requires_grad_(False)


def _freeze_parts(model: Any, section: AutoencoderModel) -> None:
    for name in ("encoder", "decoder", "bottleneck"):
        part = getattr(section, name)
        if part is not None and not part.requires_grad:
            getattr(model, name).requires_grad_(False)
