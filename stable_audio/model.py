"""DiffusionModel: a backbone and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.conditioning.multi import MultiConditioner
from stable_audio.conditioning.wiring import SlotWiring
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.settings import NO_SETTINGS, SamplingSettings
from stable_audio.diffusion.shift import TimeShift
from stable_audio.nn.precision import parameter_dtype
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.base import Pretransform
from stable_audio.types import Conditioning, ConditionTensors, Metadata

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class OwnSampling:
    """How a model is sampled unless a call says otherwise.

    Attributes:
        sampling_shift: shift of the schedule `shifted`, which is then the default of samplers of flows.
        sampling_defaults: settings of sampling where a call says nothing else.
    """

    sampling_shift: TimeShift | None = None
    sampling_defaults: SamplingSettings = NO_SETTINGS


class DiffusionModel(nn.Module):
    """Backbone + objective + conditioners + wiring + pretransform. Holds no training or sampling logic.

    Args:
        backbone: the network called at every step.
        objective: what it predicts.
        conditioner: the conditioners; None for unconditional models.
        wiring: assignment of conditioners to slots; empty for unconditional models.
        pretransform: None when diffusion runs on the waveform itself.
        sample_rate: sample rate in Hz.
        sample_size: length of a training clip in audio samples.
        audio_channels: channels of the audio that goes in and comes out.
        dist_shift: length-dependent shift of t, or None.
        mask_padding_attention: hide the padding behind a clip from self-attention.
        use_effective_length: shift t by the length of each clip, not of its latents.
        own_sampling: see `OwnSampling`, whose fields are keywords, too.

    Attributes:
        computes_on: the device to which parts come to compute, while their weights rest in host memory (see
            `inference.offload`); None: they compute where they are.
        loaded_from: name of the file of its weights, for messages; None: from no file.

    Raises:
        ValueError: the backbone cannot mask padding.
    """

    computes_on: torch.device | None = None
    loaded_from: str | None = None

    @takes_keywords
    def __init__(
        self,
        *,
        backbone: Backbone,
        objective: Objective,
        sample_rate: int,
        sample_size: int,
        audio_channels: int,
        conditioner: MultiConditioner | None = None,
        wiring: SlotWiring | None = None,
        pretransform: Pretransform | None = None,
        dist_shift: TimeShift | None = None,
        mask_padding_attention: bool = False,
        use_effective_length: bool = False,
        own_sampling: Flat[OwnSampling] = OwnSampling(),
    ) -> None:
        super().__init__()
        if mask_padding_attention and not backbone.masks_padding:
            raise ValueError(f"the backbone {type(backbone).__name__} cannot hide padding from attention")
        self.backbone = backbone
        self.objective = objective
        self.conditioner = conditioner
        self.wiring = wiring if wiring is not None else SlotWiring()
        self.pretransform = pretransform
        self.sample_rate = sample_rate
        self.sample_size = sample_size
        self.audio_channels = audio_channels
        self.dist_shift, self.sampling_shift = dist_shift, own_sampling.sampling_shift
        self.mask_padding_attention = mask_padding_attention
        self.use_effective_length = use_effective_length
        self.sampling_defaults = own_sampling.sampling_defaults

    @property
    def apg_scale(self) -> float:
        """Share of projected guidance in sampling unless a call says otherwise.

        All of it for models with a shift for sampling, as in stable-audio-3, which brought both.
        """
        return 1.0 if self.sampling_shift is not None else 0.0

    @property
    def io_channels(self) -> int:
        """Channels of the latents, or of the waveform without a pretransform."""
        return self.backbone.io_channels

    @property
    def downsampling_ratio(self) -> int:
        """Audio samples per latent frame; 1 without a pretransform."""
        return self.pretransform.downsampling_ratio if self.pretransform is not None else 1

    @property
    def length_multiple(self) -> int:
        """Audio lengths must be multiples of this many samples."""
        return self.downsampling_ratio * self.backbone.length_multiple

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, frames) of one training clip; (channels, rows, frames) where latents are pictures."""
        return self.latent_shape_of(self.sample_size)

    def latent_shape_of(self, sample_size: int) -> tuple[int, ...]:
        """Shape of the latents of a clip of `sample_size` samples."""
        rows = None if self.pretransform is None else self.pretransform.latent_height
        frames = sample_size // self.downsampling_ratio
        return (self.io_channels, frames) if rows is None else (self.io_channels, rows, frames)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        if self.computes_on is not None:
            return self.computes_on
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return parameter_dtype(self.backbone)

    def condition(
        self,
        metadata: Sequence[Metadata],
        extra: ConditionTensors | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> Conditioning:
        """b metadata dicts -> conditioning in its slots; empty for an unconditional model.

        Args:
            extra: tensors of ids without a conditioner, such as `inpainting_tensors`.
            device: device of the tensors; None = the model's.
        """
        tensors: ConditionTensors = {}
        if self.conditioner is not None:
            tensors = self.conditioner(metadata, device if device is not None else self.device)
        return self.wiring({**tensors, **(extra or {})})

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """x (b c n), t (b,) -> what the objective predicts (b c n)."""
        return self.backbone(x, t, cond)

    def forward_packed(self, x: Tensor, t: Tensor, cond: Conditioning, lengths: Sequence[int]) -> Tensor:
        """Like `forward` on each clip of lengths[i] frames by itself; see Backbone.forward_packed."""
        return self.backbone.forward_packed(x, t, cond, lengths)

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Audio (b c n) -> latents; the identity without a pretransform.

        Args:
            noise: as for Pretransform.encode.
        """
        return audio if self.pretransform is None else self.pretransform.encode(audio, noise=noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> audio (b c n); the identity without a pretransform."""
        return latents if self.pretransform is None else self.pretransform.decode(latents)
