"""Transformer autoencoder (Parker et al. 2024): strided convolutions between windowed transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from stable_audio.nn.attention import AttentionOptions
from stable_audio.nn.checkpointing import set_gradient_checkpointing
from stable_audio.nn.norms import NormOptions
from stable_audio.nn.precision import full_precision, widened
from stable_audio.nn.snake import SnakeBeta
from stable_audio.nn.transformer import TransformerBlock, TransformerOptions
from stable_audio.pretransforms.coder import Decoder, Encoder, check_stages
from stable_audio.pretransforms.conv import WNConv1d, WNConvTranspose1d
from stable_audio.pretransforms.oobleck import residual_units


@dataclass(frozen=True)
class StackOptions:
    """Options of the transformer stacks of all stages; see TAAEEncoder."""

    sliding_window: tuple[int, int] | None
    checkpointing: bool
    conformer: bool
    layer_scale: bool


class TransformerStack(nn.Sequential):
    """Transformer blocks on (b c n). First and last entry are identities: checkpoints count from 1."""

    def __init__(self, channels: int, depth: int, options: StackOptions) -> None:
        settings = TransformerOptions(
            sliding_window=options.sliding_window,
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


def _activation(channels: int, use_snake: bool) -> nn.Module:
    """SnakeBeta or the identity: then only the transformers are non-linear between convolutions."""
    return SnakeBeta(channels) if use_snake else nn.Identity()


def _window(sliding_window: list[int] | None) -> tuple[int, int] | None:
    if sliding_window is None:
        return None
    if len(sliding_window) != 2:
        raise ValueError(f"sliding_window must be [left, right] or null, found {sliding_window}")
    return sliding_window[0], sliding_window[1]


class TAAEEncoderBlock(nn.Module):
    """[dilated units,] activation, strided convolution, transformers at the new rate."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int,
        depth: int,
        use_snake: bool,
        use_dilated_conv: bool,
        options: StackOptions,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(residual_units(channels_in, use_snake=use_snake) if use_dilated_conv else ()),
            _activation(channels_in, use_snake),
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
        use_snake: bool,
        use_dilated_conv: bool,
        options: StackOptions,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            TransformerStack(channels_in, depth, options),
            _activation(channels_in, use_snake),
            WNConvTranspose1d(
                channels_in, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)
            ),
            *(residual_units(channels_out, use_snake=use_snake) if use_dilated_conv else ()),
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
        channels: base width; stage i ends with `channels * c_mults[i]`.
        c_mults: width of each stage as a multiple of `channels`.
        strides: stride of each stage.
        transformer_depths: transformer blocks of each stage.
        use_snake: SnakeBeta instead of no activation.
        use_dilated_conv: residual units before each convolution.
        sliding_window: [left, right] frames visible to attention; null = all.
        checkpointing: recompute activations in training.
        conformer: add conformer convolutions to the transformers.
        layer_scale: learned scale on each branch of the transformers.
    """

    def __init__(
        self,
        *,
        in_channels: int = 2,
        channels: int = 128,
        latent_dim: int = 32,
        c_mults: list[int] = [1, 2, 4, 8],  # noqa: B006
        strides: list[int] = [2, 4, 8, 8],  # noqa: B006
        transformer_depths: list[int] = [3, 3, 3, 3],  # noqa: B006
        use_snake: bool = False,
        sliding_window: list[int] | None = [63, 64],  # noqa: B006
        checkpointing: bool = False,
        conformer: bool = False,
        layer_scale: bool = True,
        use_dilated_conv: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.latent_dim = in_channels, latent_dim
        self.downsampling_ratio = check_stages(
            strides, c_mults=c_mults, transformer_depths=transformer_depths
        )
        options = StackOptions(_window(sliding_window), checkpointing, conformer, layer_scale)
        widths = [channels * m for m in (c_mults[0], *c_mults)]
        blocks = [
            TAAEEncoderBlock(
                a,
                b,
                stride=s,
                depth=d,
                use_snake=use_snake,
                use_dilated_conv=use_dilated_conv,
                options=options,
            )
            for a, b, s, d in zip(widths, widths[1:], strides, transformer_depths)
        ]
        self.layers = nn.Sequential(
            WNConv1d(in_channels, widths[0], 7, padding=3),
            *blocks,
            _activation(widths[-1], use_snake),
            WNConv1d(widths[-1], latent_dim, 3, padding=1),
        )

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(audio)


class TAAEDecoder(Decoder):
    """Latents (b latent_dim n) -> audio (b out_channels n * prod(strides)); stages from last to first.

    Options as for TAAEEncoder.
    """

    def __init__(
        self,
        *,
        out_channels: int = 2,
        channels: int = 128,
        latent_dim: int = 32,
        c_mults: list[int] = [1, 2, 4, 8],  # noqa: B006
        strides: list[int] = [2, 4, 8, 8],  # noqa: B006
        transformer_depths: list[int] = [3, 3, 3, 3],  # noqa: B006
        use_snake: bool = False,
        sliding_window: list[int] | None = [63, 64],  # noqa: B006
        checkpointing: bool = False,
        conformer: bool = False,
        layer_scale: bool = True,
        use_dilated_conv: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels, self.latent_dim = out_channels, latent_dim
        self.downsampling_ratio = check_stages(
            strides, c_mults=c_mults, transformer_depths=transformer_depths
        )
        options = StackOptions(_window(sliding_window), checkpointing, conformer, layer_scale)
        widths = [channels * m for m in (c_mults[0], *c_mults)][::-1]
        blocks = [
            TAAEDecoderBlock(
                a,
                b,
                stride=s,
                depth=d,
                use_snake=use_snake,
                use_dilated_conv=use_dilated_conv,
                options=options,
            )
            for a, b, s, d in zip(widths, widths[1:], strides[::-1], transformer_depths[::-1])
        ]
        self.layers = nn.Sequential(
            WNConv1d(latent_dim, widths[0], 3, padding=1),
            *blocks,
            _activation(widths[-1], use_snake),
            WNConv1d(widths[-1], out_channels, 7, padding=3, bias=False),
        )

    def forward(self, latents: Tensor) -> Tensor:
        x = latents
        *layers, last, activation, out = self.layers
        for layer in layers:
            x = layer(x)
        assert isinstance(last, TAAEDecoderBlock)
        return full_precision((activation, out), last.audible(x))
