"""DiffusionModel: a backbone and what it needs to be trained and to generate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.conditioning.multi import MultiConditioner
from stable_audio.conditioning.wiring import SlotWiring
from stable_audio.pretransforms.base import Pretransform
from stable_audio.types import Conditioning, Metadata

if TYPE_CHECKING:
    from stable_audio.diffusion.objectives import Objective
    from stable_audio.diffusion.shift import DistributionShift


class DiffusionModel(nn.Module):
    """Backbone + objective + conditioners + wiring + pretransform. Holds no training or sampling logic.

    Args:
        backbone: the network called at every step.
        objective: what it predicts.
        conditioner, wiring: None and empty for unconditional models.
        pretransform: None when diffusion runs on the waveform itself.
        sample_rate: Hz. sample_size: length of a training clip in audio samples.
        audio_channels: channels of the audio that goes in and comes out.
        dist_shift: length-dependent shift of t, or None.
    """

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
        dist_shift: DistributionShift | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.objective = objective
        self.conditioner = conditioner
        self.wiring = wiring if wiring is not None else SlotWiring()
        self.pretransform = pretransform
        self.sample_rate = sample_rate
        self.sample_size = sample_size
        self.audio_channels = audio_channels
        self.dist_shift = dist_shift

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
    def latent_shape(self) -> tuple[int, int]:
        """(channels, frames) of one training clip."""
        return self.io_channels, self.sample_size // self.downsampling_ratio

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype

    def condition(self, metadata: list[Metadata], device: torch.device | str | None = None) -> Conditioning:
        """b metadata dicts -> conditioning in its slots; empty for an unconditional model."""
        if self.conditioner is None:
            return Conditioning()
        return self.wiring(self.conditioner(metadata, device if device is not None else self.device))

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """x (b c n), t (b,) -> what the objective predicts (b c n)."""
        return self.backbone(x, t, cond)

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Audio (b c n) -> latents; the identity without a pretransform. `noise`: see Pretransform.encode."""
        return audio if self.pretransform is None else self.pretransform.encode(audio, noise=noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> audio (b c n); the identity without a pretransform."""
        return latents if self.pretransform is None else self.pretransform.decode(latents)
