"""Whole model files, one class per `model_type`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from stable_audio.config.reporting.problems import UNNAMED, Problem
from stable_audio.config.schemas.leaf import Section
from stable_audio.config.sections.autoencoder import (
    AutoencoderTrainingSection,
    DiffusionAutoencoderTrainingSection,
)
from stable_audio.config.sections.diffusion import CondModel, DiffusionAutoencoderModel, UncondModel
from stable_audio.config.sections.pretransform import AutoencoderModel
from stable_audio.config.sections.training import CondTraining, UncondTraining
from stable_audio.ranges import Positive

MAX_SAMPLE_SIZE = 1 << 34
"""Largest sample_size: a day at 192 kHz, so anything above is a mistake."""


class ModelConfig(Section):
    """Keys of every model file."""

    schema_: str | None = Field(default=None, alias="$schema", description="for editors; not read")
    model_type: str
    sample_size: Positive = Field(
        le=MAX_SAMPLE_SIZE, description="length of a training clip in audio samples"
    )
    sample_rate: Positive = Field(le=1 << 24, description="Hz")
    audio_channels: Positive = Field(default=2, le=4096, description="channels of the audio files as read")
    model: Any
    training: Any = None

    _untrainable: tuple[Problem, ...] = PrivateAttr(default=())
    _weights: dict[str, str] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr(default=UNNAMED)

    @property
    def source(self) -> str:
        """Name of the file, for messages."""
        return self._source

    @property
    def untrainable(self) -> tuple[Problem, ...]:
        """Unsupported settings of `training`, which were removed: the model can be used, but not trained."""
        return self._untrainable

    @property
    def weights(self) -> Mapping[str, str]:
        """Module, such as `pretransform` -> absolute path or hub id of the weights that the file names.

        `as_dict` has the config found there in place of the path.
        """
        return MappingProxyType(self._weights)

    def with_pretransform_hash(self, value: str) -> ModelConfig:
        """A copy with `value` as the hash of the pretransform's weights."""
        section = self.model.pretransform.model_copy(update={"hash": value})
        return self.model_copy(update={"model": self.model.model_copy(update={"pretransform": section})})

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: exactly the keys of the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class DiffusionCondConfig(ModelConfig):
    """Diffusion with conditioning."""

    model_type: Literal["diffusion_cond"]
    model: CondModel
    training: CondTraining | None = None


class DiffusionInpaintConfig(ModelConfig):
    """Diffusion with conditioning that can also inpaint."""

    model_type: Literal["diffusion_cond_inpaint"]
    model: CondModel
    training: CondTraining | None = None


class DiffusionUncondConfig(ModelConfig):
    """Diffusion without conditioning."""

    model_type: Literal["diffusion_uncond"]
    model: UncondModel
    training: UncondTraining | None = None


class AutoencoderConfig(ModelConfig):
    """An autoencoder."""

    model_type: Literal["autoencoder"]
    model: AutoencoderModel
    training: AutoencoderTrainingSection | None = None


class DiffusionAutoencoderConfig(ModelConfig):
    """An autoencoder whose decoder is a diffusion model."""

    model_type: Literal["diffusion_autoencoder"]
    model: DiffusionAutoencoderModel
    training: DiffusionAutoencoderTrainingSection | None = None


MODEL_TYPES: dict[str, type[ModelConfig]] = {
    "diffusion_cond": DiffusionCondConfig,
    "diffusion_cond_inpaint": DiffusionInpaintConfig,
    "diffusion_uncond": DiffusionUncondConfig,
    "autoencoder": AutoencoderConfig,
    "diffusion_autoencoder": DiffusionAutoencoderConfig,
}
