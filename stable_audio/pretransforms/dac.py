"""Encoder and decoder of the Descript audio codec (Kumar et al. 2023), as autoencoder parts."""

from __future__ import annotations

import math

from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.snake import Snake
from stable_audio.pretransforms.coder import CoderStage, Decoder, Encoder, check_stages, decode_in_stages
from stable_audio.pretransforms.conv import WNConv1d, WNConvTranspose1d


class ResidualUnit(Checkpointed):
    """x + conv1(snake(conv7(snake(x)))), the conv7 dilated."""

    def __init__(self, channels: int, *, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels),
            WNConv1d(channels, channels, 7, dilation=dilation, padding=3 * dilation),
            Snake(channels),
            WNConv1d(channels, channels, 1),
        )

    def compute(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def residual_units(channels: int) -> list[nn.Module]:
    """Three units with dilations 1, 3, 9."""
    return [ResidualUnit(channels, dilation=d) for d in (1, 3, 9)]


class EncoderBlock(CoderStage):
    """Residual units, then a convolution with the stride that doubles the width."""

    def __init__(self, channels_out: int, *, stride: int) -> None:
        super().__init__()
        width = channels_out // 2
        self.block = nn.Sequential(
            *residual_units(width),
            Snake(width),
            WNConv1d(width, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DecoderBlock(CoderStage):
    """A transposed convolution with the stride, then residual units."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels_in),
            WNConvTranspose1d(
                channels_in, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)
            ),
            *residual_units(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def _init_like_dac(module: nn.Module) -> None:
    """Normal weights of std 0.02, truncated, and no bias."""
    for layer in module.modules():
        if isinstance(layer, WNConv1d):
            nn.init.trunc_normal_(layer.weight_v, std=0.02)
            layer.weight_g.data.copy_(layer.weight_v.detach().flatten(1).norm(dim=1).view_as(layer.weight_g))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class _Blocks(nn.Module):
    """Holds the layers under the key `block` or `model` that checkpoints use."""

    def __init__(self, name: str, layers: list[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*layers))

    @property
    def layers(self) -> nn.Sequential:
        layers = self.get_submodule(self.name)
        assert isinstance(layers, nn.Sequential)
        return layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DACEncoder(Encoder):
    """Audio (b in_channels n) -> (b latent_dim n / prod(strides)).

    Args:
        in_channels: audio channels.
        latent_dim: output channels of a final 1x1 convolution; None: none, `d_model * 2^len(strides)`.
        d_model: width before the first stage; each stage doubles it.
        strides: downsampling factor of each stage.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        latent_dim: int | None = None,
        d_model: int = 64,
        strides: list[int] = [2, 4, 8, 8],  # noqa: B006
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.downsampling_ratio = check_stages(strides)
        layers: list[nn.Module] = [WNConv1d(in_channels, d_model, 7, padding=3)]
        width = d_model
        for stride in strides:
            width *= 2
            layers.append(EncoderBlock(width, stride=stride))
        layers += [Snake(width), WNConv1d(width, width, 3, padding=1)]
        self.encoder = _Blocks("block", layers)
        self.latent_dim = width if latent_dim is None else latent_dim
        self.proj_out = nn.Identity() if latent_dim is None else nn.Conv1d(width, latent_dim, 1)
        _init_like_dac(self)

    def forward(self, audio: Tensor) -> Tensor:
        return self.proj_out(self.encoder(audio))


class DACDecoder(Decoder):
    """Latents (b latent_dim n) -> audio (b out_channels n * prod(rates)), bounded to (-1, 1).

    Args:
        channels: width before the first stage; each stage halves it.
        rates: upsampling factor of each stage.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        channels: int = 1536,
        rates: list[int] = [8, 8, 4, 2],  # noqa: B006
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        self.latent_dim, self.out_channels = latent_dim, out_channels
        self.downsampling_ratio = check_stages(rates)
        if channels % 2 ** len(rates):
            raise ValueError(
                f"channels={channels} must be a multiple of {2 ** len(rates)}: {len(rates)} stages halve it"
            )
        layers: list[nn.Module] = [WNConv1d(latent_dim, channels, 7, padding=3)]
        width = channels
        for rate in rates:
            layers.append(DecoderBlock(width, width // 2, stride=rate))
            width //= 2
        layers += [Snake(width), WNConv1d(width, out_channels, 7, padding=3), nn.Tanh()]
        self.decoder = _Blocks("model", layers)
        _init_like_dac(self)

    def forward(self, latents: Tensor) -> Tensor:
        # The last block, an activation, a convolution and its bound.
        return decode_in_stages(self.decoder.layers, latents, audible=4)
