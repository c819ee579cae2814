"""Validated `{type, config}` sections -> objects: the parts that the rules look at and models are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.conditioning import CONDITIONERS, Conditioner
from stable_audio.config.component import Component
from stable_audio.config.diffusion import (
    ConditionerEntry,
    DiffusionAutoencoderModel,
    DiffusionKeys,
    DiffusionSection,
    UncondDiffusion,
)
from stable_audio.config.leaf import arguments
from stable_audio.config.pretransform import AutoencoderModel, Part, PretransformSection
from stable_audio.config.sounds import OF_THE_FACTORY, SoundLeaf
from stable_audio.diffusion.objectives import OBJECTIVES, Objective
from stable_audio.diffusion.processes import PROCESSES
from stable_audio.model import DiffusionAutoencoder
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS, PRETRANSFORMS
from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.base import Pretransform

BY_NAME = frozenset({"type", "config", "path", "hash"})
"""Keys of a pretransform section that say which one it is; the others are keywords of its constructor."""


def build_backbone(section: DiffusionSection) -> Backbone:
    """The backbone of a conditional model."""
    return section.create(BACKBONES)


def build_uncond_backbone(section: UncondDiffusion) -> Backbone:
    """The backbone of an unconditional model."""
    return section.create(UNCOND_BACKBONES)


def build_objective(keys: DiffusionKeys) -> Objective:
    """The objective that a section names, on its process.

    Raises:
        ValueError: the process cannot be built, or the objective is not defined on it.
    """
    process = keys.diffusion_process
    return OBJECTIVES[keys.diffusion_objective](
        process=None if process is None else process.create(PROCESSES)
    )


def build_conditioner(
    entry: ConditionerEntry, *, cond_dim: int, pretransform: Pretransform | None = None
) -> Conditioner:
    """One conditioner.

    Args:
        cond_dim: its width unless its config names another. pretransform: the model's, which it may share.

    Raises:
        ValueError: it encodes sounds, and not exactly one pretransform is named.
    """
    if not isinstance(entry.config, SoundLeaf):
        return entry.create(CONDITIONERS, output_dim=cond_dim)
    given = {k: v for k, v in arguments(entry.config).items() if k not in OF_THE_FACTORY and v is not None}
    encoder = _sound_encoder(entry.config, pretransform)
    made: Any = CONDITIONERS[entry.type]
    return made(**{"output_dim": cond_dim, **given}, pretransform=encoder)


def _sound_encoder(config: SoundLeaf, of_model: Pretransform | None) -> Pretransform:
    if config.use_model_pretransform == (config.pretransform_config is not None):
        found = "both" if config.use_model_pretransform else "neither"
        raise ValueError(f"give either use_model_pretransform true or a pretransform_config, found {found}")
    if config.pretransform_config is not None:
        return build_pretransform(config.pretransform_config)
    if config.pretransform_ckpt_path is not None:
        raise ValueError("pretransform_ckpt_path has the weights of a pretransform_config, but none is given")
    if of_model is None:
        raise ValueError("use_model_pretransform is true, but the model has no pretransform")
    return of_model


def build_pretransform(section: PretransformSection) -> Pretransform:
    """A pretransform, autoencoders included."""
    beside = {name: getattr(section, name) for name in section.model_fields_set - BY_NAME}
    if isinstance(section.config, AutoencoderModel):
        made = PRETRANSFORMS[section.type](model=build_autoencoder(section.config), **beside)  # type: ignore[call-arg]
        # `enable_grad` trains all of it, except for what the file freezes.
        _freeze_parts(made.model, section.config)
        return made
    return section.create(PRETRANSFORMS, **beside)


def build_autoencoder(model: AutoencoderModel, *, sample_rate: int | None = None) -> Autoencoder:
    """An autoencoder from its `model` section."""
    given = {
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
        **given,
    )


def build_diffusion_autoencoder(
    model: DiffusionAutoencoderModel, *, sample_rate: int | None = None
) -> DiffusionAutoencoder:
    """A diffusion autoencoder from its `model` section."""
    return DiffusionAutoencoder(
        backbone=model.diffusion.create(BACKBONES),
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
    made: nn.Module = section.create(registry)
    # True must not unfreeze what the part itself keeps fixed.
    return made if getattr(section, "requires_grad", True) else made.requires_grad_(False)


def _freeze_parts(model: Any, section: AutoencoderModel) -> None:
    for name in ("encoder", "decoder", "bottleneck"):
        part = getattr(section, name)
        if part is not None and not part.requires_grad:
            getattr(model, name).requires_grad_(False)


MAX_OPERATIONS = 20_000
"""Tensor operations of a constructor: three times what the largest published models need."""


class TooLargeError(ValueError):
    """A part that is made of more pieces than any model has."""


class _Limit(TorchFunctionMode):
    """Ends what would build for hours because of a number that nobody meant."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise TooLargeError("is made of more layers than any model has")
        return func(*args, **(kwargs or {}))


def on_meta(build: Any, *args: Any, **kwargs: Any) -> Any:
    """Build without memory or arithmetic, and without moving any random stream.

    Raises:
        TooLargeError: a count of layers beyond all reason, before it takes hours.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Limit():
        return build(*args, **kwargs)
