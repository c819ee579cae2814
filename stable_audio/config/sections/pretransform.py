"""`pretransform` sections, and the autoencoders that may stand in them."""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import ConfigDict, Field

from stable_audio.config.schemas.component import Component, component
from stable_audio.config.schemas.derived import Derived
from stable_audio.config.schemas.leaf import Section, keys_of
from stable_audio.pretransforms import BOTTLENECKS, DECODERS, ENCODERS, PRETRANSFORMS
from stable_audio.pretransforms.autoencoder_pretransform import AutoencoderPretransform
from stable_audio.ranges import Positive


class AutoencoderPart(Component):
    """Encoder or bottleneck of an autoencoder."""

    requires_grad: bool = Field(default=True, description="train it; false freezes its parameters")


class DecoderPart(AutoencoderPart):
    """Decoder of an autoencoder."""

    soft_clip: bool = Field(default=False, description="tanh on the decoded audio")


def _config_or_path(schema: dict[str, Any]) -> None:
    """Make `config` optional where `path` is given, since the file at `path` has the config."""
    required = schema.get("required", [])
    if "config" in required:
        required.remove("config")
        schema["anyOf"] = [{"required": ["config"]}, {"required": ["path"]}]


class PretransformSection(Component):
    """A transform between audio and the space of diffusion."""

    model_config = ConfigDict(json_schema_extra=_config_or_path)

    path: str | None = Field(
        default=None,
        description="file, folder or hub id (owner/name, owner/name@revision) with its weights and config",
    )
    hash: str | None = Field(default=None, description="hash of its weights; others are refused")
    enable_grad: bool = Field(default=False, description="train it with the model; false freezes it")


AutoencoderKeys: TypeAlias = Derived[
    Section, keys_of(AutoencoderPretransform, hidden=("model", "scale", "enable_grad"))
]


class AutoencoderPretransformSection(PretransformSection, AutoencoderKeys):
    """An autoencoder as the pretransform of another model."""

    scale: float = Field(
        default=1.0, gt=0, description="latents are divided by it; default: its latent_scale, else 1"
    )


EncoderPart: TypeAlias = Derived[AutoencoderPart, component(ENCODERS, base=AutoencoderPart, title="encoder")]
BottleneckPart: TypeAlias = Derived[
    AutoencoderPart, component(BOTTLENECKS, base=AutoencoderPart, title="bottleneck")
]
AnyDecoderPart: TypeAlias = Derived[DecoderPart, component(DECODERS, base=DecoderPart, title="decoder")]


class AutoencoderModel(Section):
    """`model` of an autoencoder: audio -> encoder -> bottleneck -> latents -> decoder -> audio."""

    encoder: EncoderPart
    decoder: AnyDecoderPart
    bottleneck: BottleneckPart | None = None
    latent_dim: Positive = Field(description="channels of the latents")
    downsampling_ratio: Positive = Field(description="audio samples per latent frame")
    io_channels: Positive = Field(description="audio channels")
    in_channels: Positive | None = Field(default=None, description="audio channels in, if not io_channels")
    out_channels: Positive | None = Field(default=None, description="audio channels out, if not io_channels")
    pretransform: Pretransform | None = Field(default=None, description="applied before the encoder")
    latent_scale: float | None = Field(
        default=None, gt=0, description="standard deviation of the latents; training measures and stores it"
    )


Pretransform: TypeAlias = Derived[
    PretransformSection,
    component(
        PRETRANSFORMS,
        base=PretransformSection,
        title="pretransform",
        hidden=("enable_grad",),
        special={"autoencoder": AutoencoderModel},
        bases={"autoencoder": AutoencoderPretransformSection},
    ),
]
# Autoencoders may have pretransforms, which may be autoencoders.
AutoencoderModel.model_rebuild(_types_namespace={**globals()})
