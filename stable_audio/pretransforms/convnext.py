"""ConvNeXt along time: encoder and decoder for frames of many channels, such as spectra.

Blocks after Liu et al. 2022, "A ConvNet for the 2020s", in one dimension as in Vocos (Siuzdak 2023). Two
layers with many features between them map frames to blocks and back: combs of partials lie in no
low-dimensional plane, so that a single layer from the width of the blocks could not represent them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.checks import check_choice
from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.coder import Decoder, Encoder, check_stages, decode_in_stages
from stable_audio.pretransforms.linear import LinearDecoder

Upsampling = Literal["transposed", "linear"]
Head = Literal["linear", "product"]

KERNEL = 7
"""Number of input frames of a block's convolution."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (b c n)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT).mT


class ConvNeXtBlock(Checkpointed):
    """x + scale * pointwise(GELU(pointwise(norm(depthwise(x))))).

    Args:
        channels: channels of input and output.
        expansion: width of the inner layer, as a multiple of `channels`.
        scale: initial value of the learned scale of each channel.
    """

    def __init__(self, channels: int, *, expansion: int, scale: float = 0.3) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.norm = ChannelNorm(channels)
        self.widen = nn.Conv1d(channels, expansion * channels, 1)
        self.narrow = nn.Conv1d(expansion * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1), scale))

    def compute(self, x: Tensor) -> Tensor:
        return x + self.scale * self.narrow(F.gelu(self.widen(self.norm(self.depthwise(x)))))


class LinearUpsample(nn.Module):
    """(b c n) -> (b c n * stride), between neighbours on a line and constant beyond the first and the last.

    The values of `torch.nn.functional.interpolate` in mode "linear", by one small matrix product, which is
    several times faster where gradients are needed.
    """

    weights: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        # Distance of each new frame from the middle of the old one that holds it, in old frames.
        offsets = (torch.arange(stride) + 0.5) / stride - 0.5
        before, after = (-offsets).clamp(min=0), offsets.clamp(min=0)
        weights = torch.empty(3, stride)
        for row, share in zip(weights, (before, 1 - before - after, after)):
            row.copy_(share)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        neighbours = F.pad(x, (1, 1), mode="replicate").unfold(-1, 3, 1)
        return (neighbours @ self.weights.to(x.dtype)).flatten(-2)


def _transposed(channels: int, stride: int) -> nn.Module:
    return nn.ConvTranspose1d(channels, channels, stride, stride=stride)


def _linear(channels: int, stride: int) -> nn.Module:
    return LinearUpsample(stride)


UPSAMPLINGS: dict[Upsampling, Callable[[int, int], nn.Module]] = {
    "transposed": _transposed,
    "linear": _linear,
}
"""Functions (channels, stride) -> layer."""


class ProductHead(nn.Module):
    """bias + a(first half) * b(second half): (b width n) -> (b channels n), with one matrix for each factor.

    A spectrum is the product of a comb, which the pitch decides, and an envelope, which the timbre decides.
    A sum of features has to hold every pair of them, a product only both.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width: found {width}, a product head needs an even number, for two halves")
        self.a = nn.Conv1d(width // 2, channels, 1)
        self.b = nn.Conv1d(width // 2, channels, 1)
        # The product begins as its first factor alone, nearly.
        nn.init.constant_(self.b.get_parameter("bias"), 1.0)
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return self.a(first) * self.b(second) + self.bias


def _linear_head(width: int, channels: int) -> nn.Module:
    return nn.Conv1d(width, channels, 1)


HEADS: dict[Head, Callable[[int, int], nn.Module]] = {"linear": _linear_head, "product": ProductHead}
"""Functions (width, channels) -> last layer of a decoder."""


def _through_wide_layer(
    channels_in: int, width: int, channels_out: int, *, head: Head = "linear"
) -> list[nn.Module]:
    return [nn.Conv1d(channels_in, width, 1), nn.GELU(), HEADS[head](width, channels_out)]


def _blocks(channels: int, depth: int, expansion: int) -> list[nn.Module]:
    return [ConvNeXtBlock(channels, expansion=expansion) for _ in range(depth)]


@dataclass(frozen=True, kw_only=True)
class ConvNeXtOptions:
    """What an encoder and its decoder have in common.

    Attributes:
        channels: width of the blocks.
        width: features between the two layers that map between frames and blocks.
        depth: blocks at the rate of the frames.
        strides: downsampling between the blocks, by which the decoder upsamples from the last to the first.
        expansion: inner width of a block, as a multiple of `channels`.
    """

    channels: int = 224
    width: int = 640
    depth: int = 1
    strides: list[int] = field(default_factory=lambda: [4])
    expansion: int = 3


class ConvNeXtEncoder(Encoder):
    """Frames (b in_channels n) -> (b latent_dim n / prod(strides)).

    Args:
        in_channels: channels of a frame.
        latent_dim: output channels.
        depths: blocks after each stride.
        options: blocks and strides; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        in_channels: int = 769,
        latent_dim: int = 128,
        depths: list[int] = [1],  # noqa: B006
        options: Flat[ConvNeXtOptions] = ConvNeXtOptions(),
    ) -> None:
        super().__init__()
        self.in_channels, self.latent_dim = in_channels, latent_dim
        channels, strides = options.channels, options.strides
        self.downsampling_ratio = check_stages(strides, depths=depths)
        layers = _through_wide_layer(in_channels, options.width, channels)
        layers += _blocks(channels, options.depth, options.expansion)
        for stride, count in zip(strides, depths):
            layers += [nn.Conv1d(channels, channels, stride, stride=stride)]
            layers += _blocks(channels, count, options.expansion)
        layers += [ChannelNorm(channels), nn.Conv1d(channels, latent_dim, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, audio: Tensor) -> Tensor:
        return self.layers(audio)


class ConvNeXtDecoder(Decoder):
    """Latents (b latent_dim n) -> frames (b out_channels n * prod(strides)); stages from last to first.

    Args:
        out_channels: channels of a frame.
        latent_dim: input channels.
        depths: blocks before the upsampling by each stride; the last entry is nearest to the latents.
        options: those of the encoder; its fields are keywords as well.
        upsampling: "transposed" learns a matrix for each of the frames that a latent frame becomes; "linear"
            draws a line between latent frames, so that a steady sound has no flutter at their rate.
        head: last layer: "linear", or "product" of two, for spectra (`ProductHead`).
        shortcut: add what one matrix makes of each latent frame (a `LinearDecoder`), so that the network only
            has to correct it. A decoder that begins with principal components is useful from the first step.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        out_channels: int = 769,
        latent_dim: int = 64,
        depths: list[int] = [2],  # noqa: B006
        options: Flat[ConvNeXtOptions] = ConvNeXtOptions(),
        upsampling: Upsampling = "transposed",
        head: Head = "linear",
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        check_choice("upsampling", upsampling, UPSAMPLINGS)
        check_choice("head", head, HEADS)
        self.latent_dim, self.out_channels = latent_dim, out_channels
        channels, strides = options.channels, options.strides
        self.downsampling_ratio = check_stages(strides, depths=depths)
        layers: list[nn.Module] = [nn.Conv1d(latent_dim, channels, 1)]
        for stride, count in zip(strides[::-1], depths[::-1]):
            layers += _blocks(channels, count, options.expansion)
            layers += [UPSAMPLINGS[upsampling](channels, stride)]
        layers += _blocks(channels, options.depth, options.expansion)
        layers += [ChannelNorm(channels)]
        layers += _through_wide_layer(channels, options.width, out_channels, head=head)
        self.layers = nn.Sequential(*layers)
        ratio = self.downsampling_ratio
        self.shortcut = (
            LinearDecoder(out_channels=out_channels, latent_dim=latent_dim, patch_size=ratio)
            if shortcut
            else None
        )

    def forward(self, latents: Tensor) -> Tensor:
        frames = decode_in_stages(self.layers, latents, audible=3)
        return frames if self.shortcut is None else frames + self.shortcut(latents)
