"""DiffusionAutoencoder: an autoencoder whose decoder is a diffusion model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.diffusion.objectives import Objective, VObjective
from stable_audio.diffusion.sampling import sample
from stable_audio.pretransforms.agreement import check_parts
from stable_audio.pretransforms.base import Pretransform
from stable_audio.types import Conditioning, Slot

if TYPE_CHECKING:
    from stable_audio.diffusion.noise import Noise
    from stable_audio.pretransforms.bottlenecks.base import Bottleneck, NoiseSource
    from stable_audio.pretransforms.coder import Decoder, Encoder


@dataclass(frozen=True)
class LatentSampling:
    """How latents are decoded by diffusion, unless a call says otherwise.

    Attributes:
        sampler: name of the sampler.
        steps: its steps.
    """

    sampler: str = "v-ddim"
    steps: int = 100


class DiffusionAutoencoder(nn.Module):
    """An autoencoder whose decoder is a diffusion model conditioned on the latents.

    Latents, repeated to the length of the audio, enter the backbone's input_concat slot.

    Args:
        backbone: predicts what the objective asks for; its input_concat slot takes the latents, or the
            output of `decoder`.
        latent_dim: channels of the latents.
        downsampling_ratio: audio samples per latent frame.
        io_channels: audio channels.
        encoder: network from audio to features; None: the audio itself.
        bottleneck: turns features into latents; None: the features themselves.
        decoder: network that prepares latents for the backbone; None: the latents themselves.
        pretransform: pretransform in whose latent space diffusion runs.
        objective: what the backbone predicts; None: v on the cosine process.
        sampling: how `decode` samples.

    Raises:
        ValueError: parts that disagree, with the numbers.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        latent_dim: int,
        downsampling_ratio: int,
        io_channels: int,
        encoder: Encoder | None = None,
        bottleneck: Bottleneck | None = None,
        decoder: Decoder | None = None,
        pretransform: Pretransform | None = None,
        sample_rate: int | None = None,
        objective: Objective | None = None,
        sampling: LatentSampling = LatentSampling(),
    ) -> None:
        super().__init__()
        # The name of the wrapper is part of the keys of existing checkpoints.
        self.diffusion = nn.ModuleDict({"model": backbone})
        self.encoder, self.bottleneck, self.decoder = encoder, bottleneck, decoder
        self.pretransform = pretransform
        self.latent_dim, self.downsampling_ratio = latent_dim, downsampling_ratio
        self.io_channels, self.sample_rate = io_channels, sample_rate
        self.objective = objective if objective is not None else VObjective()
        self.sampling = sampling
        self._check_agreement()

    @property
    def backbone(self) -> Backbone:
        """The network called at every step."""
        return self.diffusion["model"]  # type: ignore[return-value]

    @property
    def audio_channels(self) -> int:
        """Channels of the audio that goes in and comes out."""
        return self.io_channels

    @property
    def diffusion_ratio(self) -> int:
        """Frames of the space in which diffusion runs, per latent frame."""
        return self.downsampling_ratio // self._inner_ratio

    @property
    def length_multiple(self) -> int:
        """Audio lengths must be multiples of this many samples."""
        return math.lcm(self.downsampling_ratio, self._inner_ratio * self.backbone.length_multiple)

    @property
    def _inner_ratio(self) -> int:
        return self.pretransform.downsampling_ratio if self.pretransform is not None else 1

    def encode(self, audio: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """Audio (b io_channels n) -> latents (b latent_dim n // downsampling_ratio)."""
        return self.compress(self.to_space(audio, noise=noise), noise=noise)[0]

    def to_space(self, audio: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """Audio -> the space in which diffusion runs.

        Args:
            noise: as for Pretransform.encode.
        """
        return audio if self.pretransform is None else self.pretransform.encode(audio, noise=noise)

    def from_space(self, x: Tensor) -> Tensor:
        """The space in which diffusion runs -> audio."""
        return x if self.pretransform is None else self.pretransform.decode(x)

    def compress(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, dict[str, Any]]:
        """The space in which diffusion runs -> latents (b latent_dim n), loss terms by name."""
        x = x if self.encoder is None else self.encoder(x)
        return (x, {}) if self.bottleneck is None else self.bottleneck.encode(x, noise=noise)

    def condition(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Conditioning:
        """Latents (b latent_dim n) -> conditioning for the backbone, at the length of its input.

        Args:
            noise: noise source for bottlenecks that add noise before decoding; None: torch's generator.
        """
        length = latents.shape[-1] * self.diffusion_ratio
        x = latents if self.bottleneck is None else self.bottleneck.decode(latents, noise=noise)
        x = x if self.decoder is None else self.decoder(x)
        return Conditioning(input_concat=x if x.shape[-1] == length else F.interpolate(x, size=length))

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """x (b c n), t (b,) -> what the objective predicts (b c n)."""
        return self.backbone(x, t, cond)

    def decode(
        self, latents: Tensor, *, noise: Noise, steps: int | None = None, sampler: str | None = None
    ) -> Tensor:
        """Latents (b latent_dim n) -> audio (b io_channels n * downsampling_ratio).

        Args:
            noise: source of the starting point, and then of whatever the sampler draws.
            steps: None: those of `sampling`.
            sampler: None: that of `sampling`.
        """
        length = latents.shape[-1] * self.diffusion_ratio
        start = noise(latents.new_empty(latents.shape[0], self.backbone.io_channels, length))
        cond = self.backbone.prepare(self.condition(latents, noise=noise))
        x = sample(
            lambda x, t: self.backbone(x, t, cond),
            start,
            objective=self.objective,
            noise=noise,
            sampler=sampler if sampler is not None else self.sampling.sampler,
            steps=steps if steps is not None else self.sampling.steps,
        )
        return self.from_space(x)

    def _check_agreement(self) -> None:
        inner, concat_channels = self.pretransform, self.backbone.slot_widths.get(Slot.INPUT_CONCAT, 0)
        channels = inner.encoded_channels if inner is not None else self.io_channels
        ratio = self.encoder.downsampling_ratio if self.encoder is not None else 1
        input_multiple, added = (1, 0)
        if self.bottleneck is not None:
            input_multiple, added = self.bottleneck.input_multiple, self.bottleneck.decoder_channels_added
        decoder_output = self.decoder.out_channels if self.decoder is not None else self.latent_dim + added
        parts = {
            "downsampling": (ratio * self._inner_ratio, self.downsampling_ratio),
            "backbone channels": (self.backbone.io_channels, channels),
            "input_concat channels of the backbone": (
                concat_channels if concat_channels is not None else decoder_output,
                decoder_output,
            ),
            "encoder output channels": (
                self.encoder.latent_dim if self.encoder is not None else channels,
                self.latent_dim * input_multiple,
            ),
        }
        if inner is not None:
            parts["pretransform channels"] = (inner.io_channels, self.io_channels)
        if self.encoder is not None:
            parts["encoder input channels"] = (self.encoder.in_channels, channels)
        if self.decoder is not None:
            parts["decoder input channels"] = (self.decoder.latent_dim, self.latent_dim + added)
        check_parts("diffusion autoencoder do not fit", parts, inner_ratio=self._inner_ratio)
