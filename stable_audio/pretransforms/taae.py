"""Transformer autoencoder (Parker et al. 2024): strided convolutions between windowed transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.checkpointing import set_gradient_checkpointing
from stable_audio.nn.norms import NormOptions
from stable_audio.nn.precision import full_precision, widened
from stable_audio.nn.snake import SnakeBeta
from stable_audio.nn.transformer import TransformerBlock, TransformerOptions
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.coder import Decoder, Encoder, TransformerStages
from stable_audio.pretransforms.conv import WNConv1d, WNConvTranspose1d
from stable_audio.pretransforms.oobleck import residual_units


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """Options of all stages.

    Attributes:
        use_snake: SnakeBeta instead of no activation.
        sliding_window: [left, right] frames visible to attention; null = all.
        checkpointing: recompute activations in training.
        conformer: add conformer convolutions to the transformers.
        layer_scale: learned scale on each branch of the transformers.
        use_dilated_conv: residual units next to each convolution, on the side of the audio.
    """

    use_snake: bool = False
    sliding_window: list[int] | None = field(default_factory=lambda: [63, 64])
    checkpointing: bool = False
    conformer: bool = False
    layer_scale: bool = True
    use_dilated_conv: bool = False

    def __post_init__(self) -> None:
        if self.sliding_window is not None and len(self.sliding_window) != 2:
            raise ValueError(f"sliding_window must be [left, right] or null, found {self.sliding_window}")

    @property
    def window(self) -> tuple[int, int] | None:
        """`sliding_window` in the form that transformers expect."""
        return None if self.sliding_window is None else (self.sliding_window[0], self.sliding_window[1])

    def units(self, channels: int) -> Sequence[nn.Module]:
        """The residual units next to a convolution."""
        return residual_units(channels, use_snake=self.use_snake) if self.use_dilated_conv else ()

    def activation(self, channels: int) -> nn.Module:
        """SnakeBeta, or the identity: then only the transformers are non-linear between convolutions."""
        return SnakeBeta(channels) if self.use_snake else nn.Identity()


class TransformerStack(nn.Sequential):
    """Transformer blocks on (b c n). First and last entry are identities: checkpoints count from 1."""

    def __init__(self, channels: int, depth: int, options: StackOptions) -> None:
        settings = TransformerOptions(
            sliding_window=options.window,
            conformer=options.conformer,
            layer_scale=options.layer_scale,
            add_rope=True,
            attn_kwargs=AttentionOptions(qk_norm="ln"),
            norm_kwargs=NormOptions(eps=1e-2),
        )
        heads = min(128, channels)
        if channels % heads:
            raise ValueError(f"taae needs widths up to 128 or multiples of 128, found {channels}")
        blocks = [TransformerBlock(channels, dim_heads=heads, options=settings) for _ in range(depth)]
        super().__init__(nn.Identity(), *blocks, nn.Identity())
        set_gradient_checkpointing(self, options.checkpointing)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class TAAEEncoderBlock(nn.Module):
    """[dilated units,] activation, strided convolution, transformers at the new rate."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int,
        depth: int,
        options: StackOptions,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *options.units(channels_in),
            options.activation(channels_in),
            WNConv1d(channels_in, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)),
            TransformerStack(channels_out, depth, options),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TAAEDecoderBlock(nn.Module):
    """Transformers, activation, transposed convolution[, dilated units at the new rate]."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int,
        depth: int,
        options: StackOptions,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            TransformerStack(channels_in, depth, options),
            options.activation(channels_in),
            WNConvTranspose1d(
                channels_in, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)
            ),
            *options.units(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def audible(self, x: Tensor) -> Tensor:
        """Forward pass of the last block: residual sums of its transformers and later layers in float32."""
        first, *remaining = self.layers
        return full_precision(remaining, first(widened(x)))


class TAAEEncoder(Encoder):
    """Audio (b in_channels n) -> (b latent_dim n / prod(strides)).

    Args:
        in_channels: audio channels.
        stages: widths, strides and depths; its fields are keywords as well.
        options: options of all stages; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        in_channels: int = 2,
        stages: Flat[TransformerStages] = TransformerStages(),  # noqa: B008 (frozen)
        options: Flat[StackOptions] = StackOptions(),
    ) -> None:
        super().__init__()
        self.in_channels, self.latent_dim = in_channels, stages.latent_dim
        self.downsampling_ratio = stages.ratio
        widths = [stages.widths[0], *stages.widths]
        blocks = [
            TAAEEncoderBlock(a, b, stride=s, depth=d, options=options)
            for a, b, s, d in zip(widths, widths[1:], stages.strides, stages.transformer_depths)
        ]
        self.layers = nn.Sequential(
            WNConv1d(in_channels, widths[0], 7, padding=3),
            *blocks,
            options.activation(widths[-1]),
            WNConv1d(widths[-1], stages.latent_dim, 3, padding=1),
        )

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(audio)


class TAAEDecoder(Decoder):
    """Latents (b latent_dim n) -> audio (b out_channels n * prod(strides)); stages from last to first.

    Args:
        out_channels: audio channels.
        stages: widths, strides and depths; its fields are keywords as well.
        options: options of all stages; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        out_channels: int = 2,
        stages: Flat[TransformerStages] = TransformerStages(),  # noqa: B008 (frozen)
        options: Flat[StackOptions] = StackOptions(),
    ) -> None:
        super().__init__()
        self.out_channels, self.latent_dim = out_channels, stages.latent_dim
        self.downsampling_ratio = stages.ratio
        widths = [stages.widths[0], *stages.widths][::-1]
        blocks = [
            TAAEDecoderBlock(a, b, stride=s, depth=d, options=options)
            for a, b, s, d in zip(widths, widths[1:], stages.strides[::-1], stages.transformer_depths[::-1])
        ]
        self.layers = nn.Sequential(
            WNConv1d(stages.latent_dim, widths[0], 3, padding=1),
            *blocks,
            options.activation(widths[-1]),
            WNConv1d(widths[-1], out_channels, 7, padding=3, bias=False),
        )

    def forward(self, latents: Tensor) -> Tensor:
        x = latents
        *layers, last, activation, out = self.layers
        for layer in layers:
            x = layer(x)
        assert isinstance(last, TAAEDecoderBlock)
        return full_precision((activation, out), last.audible(x))
