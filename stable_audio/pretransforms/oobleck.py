"""Oobleck: the convolutional encoder and decoder of the Stable Audio autoencoders."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.activations import make_activation
from stable_audio.pretransforms.coder import CoderStage, Decoder, Encoder, Stages, decode_in_stages
from stable_audio.pretransforms.conv import WNConv1d, WNConvTranspose1d


class ResidualUnit(Checkpointed):
    """x + conv1(act(conv7(act(x)))), the conv7 dilated."""

    def __init__(self, channels: int, *, dilation: int, use_snake: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            make_activation(channels, use_snake=use_snake),
            WNConv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            make_activation(channels, use_snake=use_snake),
            WNConv1d(channels, channels, 1),
        )

    def compute(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def residual_units(channels: int, *, use_snake: bool) -> list[nn.Module]:
    """Three units with dilations 1, 3, 9."""
    return [ResidualUnit(channels, dilation=d, use_snake=use_snake) for d in (1, 3, 9)]


class EncoderBlock(CoderStage):
    """Residual units, then a convolution with the stride."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, use_snake: bool) -> None:
        super().__init__()
        # Never anti-aliased, whatever the encoder's option says: existing checkpoints were trained without.
        self.layers = nn.Sequential(
            *residual_units(channels_in, use_snake=use_snake),
            make_activation(channels_in, use_snake=use_snake),
            WNConv1d(channels_in, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _SameConv(WNConv1d):
    """Convolution with an even kernel that keeps the length; torch's own padding would copy and warn."""

    def forward(self, x: Tensor) -> Tensor:
        total = self.kernel_size[0] - 1
        return super().forward(F.pad(x, (total // 2, total - total // 2)))


def _upsampler(channels_in: int, channels_out: int, *, stride: int, nearest: bool) -> nn.Module:
    if nearest:
        return nn.Sequential(
            nn.Upsample(scale_factor=stride, mode="nearest"),
            _SameConv(channels_in, channels_out, 2 * stride, bias=False),
        )
    return WNConvTranspose1d(
        channels_in, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)
    )


class DecoderBlock(CoderStage):
    """Upsampling by the stride, then residual units."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int,
        use_snake: bool,
        antialias: bool,
        nearest: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            make_activation(channels_in, use_snake=use_snake, antialias=antialias),
            _upsampler(channels_in, channels_out, stride=stride, nearest=nearest),
            *residual_units(channels_out, use_snake=use_snake),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class OobleckEncoder(Encoder):
    """Audio (b in_channels n) -> (b latent_dim n / prod(strides)).

    Args:
        in_channels: audio channels.
        stages: widths and strides; its fields are keywords as well. The first convolution
            has `channels` outputs.
        use_snake: SnakeBeta instead of ELU.
        antialias_activation: anti-alias the last activation only.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        in_channels: int = 2,
        stages: Flat[Stages] = Stages(),  # noqa: B008 (frozen)
        use_snake: bool = False,
        antialias_activation: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.latent_dim = in_channels, stages.latent_dim
        self.downsampling_ratio = stages.ratio
        widths = [stages.channels, *stages.widths]
        blocks = [
            EncoderBlock(a, b, stride=s, use_snake=use_snake)
            for a, b, s in zip(widths, widths[1:], stages.strides)
        ]
        self.layers = nn.Sequential(
            WNConv1d(in_channels, widths[0], 7, padding=3),
            *blocks,
            make_activation(widths[-1], use_snake=use_snake, antialias=antialias_activation),
            WNConv1d(widths[-1], stages.latent_dim, 3, padding=1),
        )

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(audio)


class OobleckDecoder(Decoder):
    """Latents (b latent_dim n) -> audio (b out_channels n * prod(strides)); stages from last to first.

    Args:
        out_channels: audio channels.
        stages: widths and strides; its fields are keywords as well.
        use_snake: SnakeBeta instead of ELU.
        use_nearest_upsample: repeat and convolve instead of a transposed convolution.
        antialias_activation: anti-alias the activations before upsampling and the last one.
        final_tanh: bound the output to (-1, 1).
    """

    @takes_keywords
    def __init__(
        self,
        *,
        out_channels: int = 2,
        stages: Flat[Stages] = Stages(),  # noqa: B008 (frozen)
        use_snake: bool = False,
        antialias_activation: bool = False,
        use_nearest_upsample: bool = False,
        final_tanh: bool = True,
    ) -> None:
        super().__init__()
        self.out_channels, self.latent_dim = out_channels, stages.latent_dim
        self.downsampling_ratio = stages.ratio
        widths = [stages.channels, *stages.widths][::-1]
        blocks = [
            DecoderBlock(
                a,
                b,
                stride=s,
                use_snake=use_snake,
                antialias=antialias_activation,
                nearest=use_nearest_upsample,
            )
            for a, b, s in zip(widths, widths[1:], stages.strides[::-1])
        ]
        self.layers = nn.Sequential(
            WNConv1d(stages.latent_dim, widths[0], 7, padding=3),
            *blocks,
            make_activation(widths[-1], use_snake=use_snake, antialias=antialias_activation),
            WNConv1d(widths[-1], out_channels, 7, padding=3, bias=False),
            nn.Tanh() if final_tanh else nn.Identity(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        # The last block, an activation, a convolution and its bound.
        return decode_in_stages(self.layers, latents, audible=4)
