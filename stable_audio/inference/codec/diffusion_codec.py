"""A diffusion autoencoder where a pretransform is expected: for encoding, decoding and measuring."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion_autoencoder import DiffusionAutoencoder
from stable_audio.pretransforms.base import Pretransform


class DiffusionCodec(Pretransform):
    """Encodes as the model does and decodes by sampling, always from the noise of the same seed.

    Args:
        model: the trained diffusion autoencoder.
        steps: steps of the sampler.
        seed: seed of the noise, the same for every item.
    """

    needs_weights = True

    def __init__(self, *, model: DiffusionAutoencoder, steps: int = 50, seed: int = 0) -> None:
        super().__init__()
        self.model, self.steps, self.seed = model, steps, seed
        self.io_channels, self.encoded_channels = model.io_channels, model.latent_dim
        self.downsampling_ratio = model.downsampling_ratio
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return self.model.encode(audio, noise=noise)

    def decode(self, latents: Tensor) -> Tensor:
        length = latents.shape[-1]
        # The backbone's strides may need more than one latent frame.
        multiple = self.model.length_multiple // self.downsampling_ratio
        padded = F.pad(latents, (0, -length % multiple), mode="replicate")
        noise = SeededNoise([self.seed] * latents.shape[0])
        audio = self.model.decode(padded, noise=noise, steps=self.steps)
        return audio[..., : length * self.downsampling_ratio]
