"""What every pretransform offers: audio <-> the space in which diffusion runs."""

from __future__ import annotations

from torch import Tensor, nn


class Pretransform(nn.Module):
    """Base of the transforms between audio and latents.

    Attributes:
        io_channels: audio channels.
        encoded_channels: channels of the latents.
        downsampling_ratio: audio samples per latent frame.
        enable_grad: whether training reaches the parameters; False freezes them and keeps eval mode.
        needs_weights: True when the transform is learned, so that untrained weights mean noise.
    """

    io_channels: int
    encoded_channels: int
    downsampling_ratio: int
    needs_weights: bool = False

    def __init__(self, *, enable_grad: bool = False) -> None:
        super().__init__()
        self.enable_grad = enable_grad

    def encode(self, audio: Tensor) -> Tensor:
        """Audio (b c n) -> latents (b encoded_channels n // downsampling_ratio)."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b c n) -> audio (b io_channels n * downsampling_ratio)."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Pretransform:
        """A frozen pretransform stays in eval mode whatever its parent does."""
        return super().train(mode and self.enable_grad)

    def freeze_unless_trained(self) -> Pretransform:
        """Apply `enable_grad` to the parameters; constructors call it last."""
        self.requires_grad_(self.enable_grad)
        self.train(self.enable_grad)
        return self
