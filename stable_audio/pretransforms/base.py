"""The interface of pretransforms: audio <-> the space in which diffusion runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from stable_audio.pretransforms.chunking import in_chunks


class Pretransform(nn.Module):
    """Base of the transforms between audio and latents.

    Attributes:
        io_channels: audio channels.
        encoded_channels: channels of the latents.
        downsampling_ratio: audio samples per latent frame.
        latent_height: rows of 2-D latents (b c rows n); None for latents (b c n).
        enable_grad: whether to train the parameters; otherwise they are frozen, in eval mode.
        needs_weights: whether the transform is learned, so that it is useless without trained weights.
        is_discrete: whether the latents have tokens.
        settings: settings other than weights and geometry that change the latents; they are part of the hash.
        folded_from: hash of the weights before their norms were folded; None if they were not.
    """

    io_channels: int
    encoded_channels: int
    downsampling_ratio: int
    latent_height: int | None = None
    needs_weights: bool = False
    is_discrete: bool = False
    settings: tuple[object, ...] = ()
    folded_from: str | None = None

    def __init__(self, *, enable_grad: bool = False) -> None:
        super().__init__()
        self.enable_grad = enable_grad

    @property
    def device(self) -> torch.device:
        """Device of the parameters; the CPU for transforms without any."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Audio (b c n) -> latents (b encoded_channels n // downsampling_ratio).

        Args:
            noise: source of the standard normal noise of a VAE, called with a tensor of the shape to
                draw; None draws from torch's generator. Deterministic transforms ignore it.
        """
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b c n) -> audio (b io_channels n * downsampling_ratio)."""
        raise NotImplementedError

    def prepared(self) -> AbstractContextManager[object]:
        """Context of several calls, in which what they share, such as normalised weights, is made once."""
        return nullcontext()

    def encode_chunked(
        self,
        audio: Tensor,
        *,
        chunk_size: int = 128,
        overlap: int = 32,
        crossfade: int | None = None,
        noise: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`encode` for any length in constant memory; sizes in latent frames, see `chunking.in_chunks`."""
        return in_chunks(
            lambda piece: self.encode_piece(piece, noise),
            audio,
            chunk_size=chunk_size,
            overlap=overlap,
            in_per_frame=self.downsampling_ratio,
            out_per_frame=1,
            crossfade=crossfade,
        )

    def decode_chunked(
        self, latents: Tensor, *, chunk_size: int = 128, overlap: int = 32, crossfade: int | None = None
    ) -> Tensor:
        """`decode` for any length in constant memory; sizes in latent frames, see `chunking.in_chunks`."""
        return in_chunks(
            self.decode_piece,
            latents,
            chunk_size=chunk_size,
            overlap=overlap,
            in_per_frame=1,
            out_per_frame=self.downsampling_ratio,
            crossfade=crossfade,
        )

    def encode_piece(self, audio: Tensor, noise: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Encode one chunk for `encode_chunked`; differs from `encode` if that is chunked itself."""
        return self.encode(audio, noise=noise)

    def decode_piece(self, latents: Tensor) -> Tensor:
        """Decode one chunk for `decode_chunked`."""
        return self.decode(latents)

    def train(self, mode: bool = True) -> Pretransform:
        """Set the mode; a frozen pretransform stays in eval mode, whatever its parent does."""
        return super().train(mode and self.enable_grad)

    def freeze_unless_trained(self) -> Pretransform:
        """Apply `enable_grad`; constructors call it last. What parts of it freeze themselves stays frozen."""
        if not self.enable_grad:
            self.requires_grad_(False)
        self.train(self.enable_grad)
        return self
