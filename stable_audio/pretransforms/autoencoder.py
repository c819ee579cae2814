"""Autoencoder: an encoder, a bottleneck and a decoder, optionally inside another pretransform."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_audio.pretransforms.agreement import check_parts
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.bottlenecks.base import (
    Bottleneck,
    DiscreteBottleneck,
    Info,
    NoiseSource,
)
from stable_audio.pretransforms.chunking import in_chunks
from stable_audio.pretransforms.coder import Decoder, Encoder


class Autoencoder(nn.Module):
    """encoder -> bottleneck -> decoder, optionally inside another pretransform.

    Args:
        encoder: the network that turns audio into features.
        decoder: the network that turns latents into audio.
        bottleneck: turns features into latents; None: the features themselves.
        latent_dim: channels of the latents, after the bottleneck.
        downsampling_ratio: audio samples per latent frame, including the inner pretransform.
        io_channels: audio channels of input and output.
        in_channels: audio channels of the input, if different.
        out_channels: audio channels of the output, if different.
        soft_clip: apply tanh at the end of `decode`.
        pretransform: applied before the encoder and undone after the decoder.
        sample_rate: sample rate in Hz of its audio, if known.
        latent_scale: standard deviation of the latents, measured in training; None if not measured.

    Raises:
        ValueError: parts that disagree, with the numbers.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        decoder: Decoder,
        latent_dim: int,
        downsampling_ratio: int,
        io_channels: int,
        bottleneck: Bottleneck | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        soft_clip: bool = False,
        pretransform: Pretransform | None = None,
        sample_rate: int | None = None,
        latent_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.bottleneck = bottleneck
        self.pretransform = pretransform
        self.latent_dim, self.downsampling_ratio = latent_dim, downsampling_ratio
        self.io_channels = io_channels
        self.in_channels = io_channels if in_channels is None else in_channels
        self.out_channels = io_channels if out_channels is None else out_channels
        self.soft_clip = soft_clip
        self.sample_rate, self.latent_scale = sample_rate, latent_scale
        self._check_agreement()

    @property
    def is_discrete(self) -> bool:
        """Whether the bottleneck is discrete, so that latents have tokens."""
        return isinstance(self.bottleneck, DiscreteBottleneck)

    @property
    def audio_channels(self) -> int:
        """Channels of decoded audio."""
        return self.out_channels

    @property
    def latent_height(self) -> int | None:
        """Rows of 2-D latents (b c rows n); None for latents (b c n)."""
        rows = None if self.pretransform is None else self.pretransform.latent_height
        return None if rows is None else rows // self.encoder.downsampling_ratio

    def encode(self, audio: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """Audio (b in_channels n) -> latents (b latent_dim n // downsampling_ratio)."""
        return self.encode_with_info(audio, noise=noise)[0]

    def encode_with_info(self, audio: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        """Like `encode`; also returns the bottleneck's loss terms and `pre_bottleneck_latents`."""
        return self.encode_transformed(self.transform(audio), noise=noise)

    def encode_features(self, audio: Tensor) -> Tensor:
        """Audio -> output of the encoder, before the bottleneck (b encoder.latent_dim n)."""
        return self._features_of(self.transform(audio))

    def encode_transformed(self, values: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        """Like `encode_with_info`, from the output of `transform`."""
        return self.compress(self._features_of(values), noise=noise)

    def _features_of(self, values: Tensor) -> Tensor:
        # Faster layers return other strides, which change later operations such as random draws.
        return self.encoder(values).contiguous()

    def transform(self, audio: Tensor) -> Tensor:
        """Audio -> input of the encoder: the inner pretransform's output, or the audio if there is none."""
        return audio if self.pretransform is None else self.pretransform.encode(audio)

    def compress(self, features: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        """Features -> latents and the bottleneck's loss terms."""
        info: Info = {"pre_bottleneck_latents": features}
        if self.bottleneck is None:
            return features, info
        latents, terms = self.bottleneck.encode(features, noise=noise)
        return latents, {**info, **terms}

    def decode(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """Latents (b latent_dim n) -> audio (b out_channels n * downsampling_ratio)."""
        return self.decode_features(self.expand(latents, noise=noise))

    def expand(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """Latents -> input of the decoder."""
        return latents if self.bottleneck is None else self.bottleneck.decode(latents, noise=noise)

    def decode_features(self, features: Tensor) -> Tensor:
        """Input of the decoder -> audio."""
        return self.undo_transform(self.decoder(features).contiguous())

    def undo_transform(self, values: Tensor) -> Tensor:
        """Output of the decoder -> audio; the inverse of `transform`."""
        audio = values if self.pretransform is None else self.pretransform.decode(values)
        return torch.tanh(audio) if self.soft_clip else audio

    def encode_chunked(
        self,
        audio: Tensor,
        *,
        chunk_size: int = 128,
        overlap: int = 32,
        crossfade: int | None = None,
        noise: NoiseSource | None = None,
    ) -> Tensor:
        """`encode` in constant memory. The bottleneck receives the features of all chunks at once, so that
        its noise, and hence the latents, are those of a single pass."""
        features = self._features_in_chunks(audio, chunk_size, overlap, crossfade)
        return self.compress(features, noise=noise)[0]

    def _features_in_chunks(
        self, audio: Tensor, chunk_size: int = 128, overlap: int = 32, crossfade: int | None = None
    ) -> Tensor:
        return in_chunks(
            self.encode_features,
            audio,
            chunk_size=chunk_size,
            overlap=overlap,
            in_per_frame=self.downsampling_ratio,
            out_per_frame=1,
            crossfade=crossfade,
        )

    def decode_chunked(
        self,
        latents: Tensor,
        *,
        chunk_size: int = 128,
        overlap: int = 32,
        crossfade: int | None = None,
        noise: NoiseSource | None = None,
    ) -> Tensor:
        """`decode` in constant memory: only the output grows with the length."""
        return in_chunks(
            self.decode_features,
            self.expand(latents, noise=noise),
            chunk_size=chunk_size,
            overlap=overlap,
            in_per_frame=1,
            out_per_frame=self.downsampling_ratio,
            crossfade=crossfade,
        )

    def encode_audio(self, audio: Tensor, *, chunked: bool = False, **options: int) -> Tensor:
        """`encode_chunked(audio, **options)` if `chunked`, else `encode`."""
        return self.encode_chunked(audio, **options) if chunked else self.encode(audio)  # type: ignore[arg-type]

    def decode_audio(self, latents: Tensor, *, chunked: bool = False, **options: int) -> Tensor:
        """`decode_chunked(latents, **options)` if `chunked`, else `decode`."""
        return self.decode_chunked(latents, **options) if chunked else self.decode(latents)  # type: ignore[arg-type]

    def encode_tokens(self, audio: Tensor, *, chunked: bool = False, **options: int) -> Tensor:
        """Audio -> tokens (b q n) of a discrete bottleneck; `chunked` and options as in `encode_audio`."""
        self._quantizer()
        features = self._features_in_chunks(audio, **options) if chunked else self.encode_features(audio)
        return self.compress(features)[1]["tokens"]

    def decode_tokens(self, tokens: Tensor, *, chunked: bool = False, **options: int) -> Tensor:
        """Tokens (b q n) -> audio; `chunked` and options as in `decode_audio`."""
        return self.decode_audio(self._quantizer().decode_tokens(tokens), chunked=chunked, **options)

    def _quantizer(self) -> DiscreteBottleneck:
        if not isinstance(self.bottleneck, DiscreteBottleneck):
            actual = "no bottleneck" if self.bottleneck is None else type(self.bottleneck).__name__
            raise TypeError(f"tokens need a discrete bottleneck (rvq, dac_rvq, fsq, ...); this has {actual}")
        return self.bottleneck

    def _check_agreement(self) -> None:
        inner, bottleneck = self.pretransform, self.bottleneck or Bottleneck()
        inner_ratio = 1 if inner is None else inner.downsampling_ratio
        measures = {
            "encoder downsampling": (
                self.encoder.downsampling_ratio * inner_ratio,
                self.downsampling_ratio,
            ),
            "decoder upsampling": (self.decoder.downsampling_ratio * inner_ratio, self.downsampling_ratio),
            "encoder input channels": (
                self.encoder.in_channels,
                self.in_channels if inner is None else inner.encoded_channels,
            ),
            "decoder output channels": (
                self.decoder.out_channels,
                self.out_channels if inner is None else inner.encoded_channels,
            ),
            "encoder output channels": (
                self.encoder.latent_dim,
                self.latent_dim * bottleneck.input_multiple,
            ),
            "decoder input channels": (
                self.decoder.latent_dim,
                self.latent_dim + bottleneck.decoder_channels_added,
            ),
            "bottleneck channels": (bottleneck.channels or self.latent_dim, self.latent_dim),
        }
        if inner is not None:
            measures["audio channels in"] = (self.in_channels, inner.io_channels)
            measures["audio channels out"] = (self.out_channels, inner.io_channels)
        check_parts(
            f"autoencoder do not fit latent_dim={self.latent_dim}, "
            f"downsampling_ratio={self.downsampling_ratio}, io_channels={self.io_channels}",
            measures,
            inner_ratio=inner_ratio,
        )
