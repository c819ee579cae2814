"""AutoencoderPretransform: diffusion in the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from stable_audio.pretransforms.autoencoder import Autoencoder
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.conv import fold_weight_norm
from stable_audio.pretransforms.fast import fast_inference


class AutoencoderPretransform(Pretransform):
    """Diffusion in the latents of an autoencoder (state keys `model.*`).

    Args:
        model: the autoencoder.
        scale: divisor of the latents, so that their std is near 1 for the diffusion model; None: the
            autoencoder's `latent_scale`, or 1 if that is unknown.
        model_half: run the autoencoder in float16; inputs and outputs stay float32.
        iterate_batch: process one item at a time, which limits memory.
        chunked: encode and decode in chunks of 128 frames.
    """

    needs_weights = True

    def __init__(
        self,
        *,
        model: Autoencoder,
        scale: float | None = None,
        model_half: bool = False,
        iterate_batch: bool = False,
        chunked: bool = False,
        enable_grad: bool = False,
    ) -> None:
        super().__init__(enable_grad=enable_grad)
        if scale is not None and scale <= 0:
            raise ValueError(f"scale of the autoencoder pretransform must be positive, found {scale}")
        self.model = model.half() if model_half else model
        self._scale, self.model_half = scale, model_half
        self.iterate_batch, self.chunked = iterate_batch, chunked
        self.io_channels = model.io_channels
        self.encoded_channels = model.latent_dim
        self.downsampling_ratio = model.downsampling_ratio
        self.latent_height = model.latent_height
        self.is_discrete = model.is_discrete
        inner = () if model.pretransform is None else model.pretransform.settings
        self.settings = (*inner, *(() if model.bottleneck is None else model.bottleneck.settings))
        self.freeze_unless_trained()

    @property
    def sample_rate(self) -> int | None:
        return self.model.sample_rate

    @property
    def scale_is_given(self) -> bool:
        """Whether the constructor set the scale, which then takes precedence over a measured one."""
        return self._scale is not None

    @property
    def scale(self) -> float:
        """The divisor of the latents."""
        return self._scale or self.model.latent_scale or 1.0

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        step = self.model.encode_chunked if self.chunked else self.model.encode
        return self._run(lambda x: step(x, noise=noise), audio) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        step = self.model.decode_chunked if self.chunked else self.model.decode
        return self._run(step, latents * self.scale)

    def encode_chunked(
        self,
        audio: Tensor,
        *,
        chunk_size: int = 128,
        overlap: int = 32,
        crossfade: int | None = None,
        noise: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        options: dict[str, Any] = {"chunk_size": chunk_size, "overlap": overlap, "crossfade": crossfade}
        return self._run(lambda x: self.model.encode_chunked(x, noise=noise, **options), audio) / self.scale

    def decode_chunked(
        self, latents: Tensor, *, chunk_size: int = 128, overlap: int = 32, crossfade: int | None = None
    ) -> Tensor:
        options: dict[str, Any] = {"chunk_size": chunk_size, "overlap": overlap, "crossfade": crossfade}
        return self._run(lambda x: self.model.decode_chunked(x, **options), latents * self.scale)

    def prepared(self) -> AbstractContextManager[object]:
        return fast_inference(self.model)

    def remove_weight_norm(self) -> None:
        """Fold the weight norms: same output, plain `weight` keys, faster."""
        fold_weight_norm(self.model)

    def tokenize(self, audio: Tensor, *, chunked: bool = False, **options: int) -> Tensor:
        """Audio -> tokens (b q n) of a discrete bottleneck."""
        with fast_inference(self.model):
            x = audio.half() if self.model_half else audio
            return self.model.encode_tokens(x, chunked=chunked, **options)

    def decode_tokens(self, tokens: Tensor, *, chunked: bool = False, **options: int) -> Tensor:
        """Tokens (b q n) -> audio."""
        with fast_inference(self.model):
            return self.model.decode_tokens(tokens, chunked=chunked, **options).float()

    def _run(self, step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        x = x.half() if self.model_half else x
        with fast_inference(self.model):
            y = torch.cat([step(item) for item in x.split(1)]) if self.iterate_batch else step(x)
        return y.float() if self.model_half else y
