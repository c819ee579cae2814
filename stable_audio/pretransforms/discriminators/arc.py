"""Score heads on (b c n) features: convolutions with group norm, or ConvNeXt blocks (Liu et al. 2022)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.coder import check_stages
from stable_audio.pretransforms.conv import WNConv1d
from stable_audio.pretransforms.discriminators.base import Discriminator, Judgement

LossType = Literal["lsgan", "relativistic"]


class _Head(Discriminator):
    """One score map; least-squares losses, or relativistic ones that compare pairs."""

    def __init__(self, loss_type: LossType, soft_clip_scale: float | None) -> None:
        super().__init__()
        if loss_type not in ("lsgan", "relativistic"):
            raise ValueError(f'loss_type must be "lsgan" or "relativistic", found {loss_type!r}')
        self.relativistic, self.soft_clip_scale = loss_type == "relativistic", soft_clip_scale

    def score(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def judge(self, audio: Tensor) -> list[Judgement]:
        score = self.score(audio)
        if self.soft_clip_scale:
            score = self.soft_clip_scale * torch.tanh(score / self.soft_clip_scale)
        return [[score]]

    def real_and_fake(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.relativistic:
            return F.softplus(fake - real).mean()
        return (1 - real).square().mean() + fake.square().mean()

    def as_real(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(real - fake).mean() if self.relativistic else (1 - fake).square().mean()

    def feature_distance(self, real: list[Judgement], fake: list[Judgement]) -> Tensor:
        """Heads have no feature maps."""
        return fake[0][-1].new_zeros(())


class ConvHead(_Head):
    """Four stride-2 convolutions (kernel 4) with group norm and SiLU, then one to a single channel.

    Args:
        channels: channels of the features, a multiple of 32.
        soft_clip_scale: scores are bounded to (-scale, scale).
    """

    def __init__(
        self, *, channels: int, loss_type: LossType = "lsgan", soft_clip_scale: float | None = None
    ) -> None:
        super().__init__(loss_type, soft_clip_scale)
        layers: list[nn.Module] = []
        for _ in range(4):
            conv = nn.Conv1d(channels, channels, 4, stride=2, padding=1)
            layers += [conv, nn.GroupNorm(32, channels), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv1d(channels, 1, 4))

    @property
    def networks(self) -> list[nn.Module]:
        return [self.layers]

    def score(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvNeXtBlock(nn.Module):
    """x + down(gelu(up(depthwise(x)))), without a norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw_conv = WNConv1d(channels, channels, 7, padding=3, groups=channels)
        self.proj_up = WNConv1d(channels, 4 * channels, 1)
        self.proj_down = WNConv1d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_down(F.gelu(self.proj_up(self.dw_conv(x))))


class _ConvNeXtStage(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, *, stride: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ConvNeXtBlock(channels_in) for _ in range(blocks)))
        self.downsample = WNConv1d(
            channels_in, channels_out, 2 * stride, stride=stride, padding=math.ceil(stride / 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.layers(x))


class _ConvNeXt(nn.Module):
    def __init__(
        self, in_channels: int, widths: list[int], strides: list[int], num_blocks: list[int], latent_dim: int
    ) -> None:
        super().__init__()
        self.proj_in = WNConv1d(in_channels, widths[0], 7, padding=3)
        stages = [
            _ConvNeXtStage(a, b, stride=s, blocks=k)
            for a, b, s, k in zip(widths, widths[1:], strides, num_blocks)
        ]
        self.layers = nn.Sequential(*stages, WNConv1d(widths[-1], latent_dim, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.proj_in(x))


class ConvNeXtHead(_Head):
    """ConvNeXt blocks and strided convolutions, then `latent_dim` score channels.

    Args:
        in_channels: channels of the features.
        channels: base width of the stages.
        c_mults: width of each stage as a multiple of `channels`.
        strides: stride of each stage's convolution.
        num_blocks: ConvNeXt blocks of each stage.
    """

    def __init__(
        self,
        *,
        in_channels: int = 2,
        channels: int = 128,
        latent_dim: int = 1,
        c_mults: list[int] = [1, 2, 4, 8],  # noqa: B006
        strides: list[int] = [2, 2, 2, 2],  # noqa: B006
        num_blocks: list[int] = [2, 2, 2, 2],  # noqa: B006
        loss_type: LossType = "lsgan",
        soft_clip_scale: float | None = None,
    ) -> None:
        super().__init__(loss_type, soft_clip_scale)
        check_stages(strides, c_mults=c_mults, num_blocks=num_blocks)
        widths = [channels * m for m in (c_mults[0], *c_mults)]
        self.encoder = _ConvNeXt(in_channels, widths, strides, num_blocks, latent_dim)

    @property
    def networks(self) -> list[nn.Module]:
        return [self.encoder]

    def score(self, x: Tensor) -> Tensor:
        return self.encoder(x)
