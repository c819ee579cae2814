"""Linear patches: a few frames times a matrix, such as the principal components of all patches, and back."""

from __future__ import annotations

from torch import Tensor, nn

from stable_audio.nn.precision import full_precision
from stable_audio.pretransforms.coder import Decoder, Encoder


class LinearEncoder(Encoder):
    """Patches of (b in_channels n) -> (b latent_dim n / patch_size), one matrix for all of them.

    Args:
        in_channels: channels of a frame.
        latent_dim: output channels.
        patch_size: frames of a patch.
    """

    def __init__(self, *, in_channels: int = 769, latent_dim: int = 128, patch_size: int = 4) -> None:
        super().__init__()
        self.in_channels, self.latent_dim, self.downsampling_ratio = in_channels, latent_dim, patch_size
        self.project = nn.Conv1d(in_channels, latent_dim, patch_size, stride=patch_size)

    def forward(self, audio: Tensor) -> Tensor:
        return self.project(audio)


class LinearDecoder(Decoder):
    """(b latent_dim n) -> patches of (b out_channels n * patch_size), one matrix for all of them.

    Args:
        out_channels: channels of a frame.
        latent_dim: input channels.
        patch_size: frames of a patch.
    """

    def __init__(self, *, out_channels: int = 769, latent_dim: int = 128, patch_size: int = 4) -> None:
        super().__init__()
        self.out_channels, self.latent_dim, self.downsampling_ratio = out_channels, latent_dim, patch_size
        self.project = nn.ConvTranspose1d(latent_dim, out_channels, patch_size, stride=patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        return full_precision([self.project], latents)
