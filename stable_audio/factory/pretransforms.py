"""Sections -> pretransforms and autoencoders."""

from __future__ import annotations

from stable_audio.backbones import BACKBONES
from stable_audio.config.sections.diffusion import DiffusionAutoencoderModel
from stable_audio.config.sections.pretransform import AutoencoderModel, PretransformSection
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.factory.components import create
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS, PRETRANSFORMS
from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.base import Pretransform

BY_NAME = frozenset({"type", "config", "path", "hash"})
"""Keys of a pretransform section that choose the pretransform; the others are keywords of its constructor."""


def build_pretransform(section: PretransformSection) -> Pretransform:
    """Build a pretransform, which may be an autoencoder."""
    keywords = {name: getattr(section, name) for name in section.model_fields_set - BY_NAME}
    if isinstance(section.config, AutoencoderModel):
        return PRETRANSFORMS[section.type](model=build_autoencoder(section.config), **keywords)  # type: ignore[call-arg]
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
        encoder=create(model.encoder, ENCODERS),
        decoder=create(model.decoder, DECODERS),
        bottleneck=create(model.bottleneck, BOTTLENECKS) if model.bottleneck is not None else None,
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
        encoder=create(model.encoder, ENCODERS) if model.encoder is not None else None,
        bottleneck=create(model.bottleneck, BOTTLENECKS) if model.bottleneck is not None else None,
        decoder=create(model.decoder, DECODERS) if model.decoder is not None else None,
        pretransform=build_pretransform(model.pretransform) if model.pretransform is not None else None,
        latent_dim=model.latent_dim,
        downsampling_ratio=model.downsampling_ratio,
        io_channels=model.io_channels,
        sample_rate=sample_rate,
    )
