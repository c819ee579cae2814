"""Oobleck's discriminator: waveforms at several rates, and folded at several periods."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.conv import WNConv1d, WNConv2d
from stable_audio.pretransforms.discriminators.base import Discriminator, GeneratorLosses, Judgement
from stable_audio.ranges import Positive


@dataclass(frozen=True, kw_only=True)
class ConvStackOptions:
    """The convolutions of one stack.

    Attributes:
        capacity: channels after the first layer.
        n_layers: strided layers.
        kernel_size: samples that a layer sees.
        stride: downsampling of a layer.
    """

    capacity: int = 32
    n_layers: int = 4
    kernel_size: int = 15
    stride: int = 4


class ConvStack(nn.Module):
    """Strided convolutions with SiLU, then a 1x1 convolution; the width doubles per layer."""

    def __init__(self, *, in_channels: int, options: ConvStackOptions, two_d: bool) -> None:
        super().__init__()
        conv, last = (WNConv2d, nn.Conv2d) if two_d else (WNConv1d, nn.Conv1d)
        kernel_size = options.kernel_size
        widths = [in_channels, *(options.capacity * 2**i for i in range(options.n_layers))]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [conv(a, b, kernel_size, stride=options.stride, padding=kernel_size // 2), nn.SiLU()]
        self.net = nn.Sequential(*layers, last(widths[-1], 1, 1))

    def forward(self, x: Tensor) -> Judgement:
        maps = []
        for layer in self.net:
            x = layer(x)
            if not isinstance(layer, nn.SiLU):
                maps.append(x)
        return maps


class MultiScale(nn.Module):
    """One stack per rate; the audio is averaged in pairs in between."""

    @takes_keywords
    def __init__(
        self,
        *,
        in_channels: int,
        n_scales: int = 3,
        options: Flat[ConvStackOptions] = ConvStackOptions(),
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvStack(in_channels=in_channels, options=options, two_d=False) for _ in range(n_scales)
        )

    def forward(self, x: Tensor) -> list[Judgement]:
        judgements = []
        for layer in self.layers:
            judgements.append(layer(x))
            x = F.avg_pool1d(x, 2)
        return judgements


class MultiPeriod(nn.Module):
    """One stack per period; the audio is folded to (b c n/period period)."""

    @takes_keywords
    def __init__(
        self,
        *,
        in_channels: int,
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        options: Flat[ConvStackOptions] = ConvStackOptions(),
    ) -> None:
        super().__init__()
        self.periods = periods
        self.layers = nn.ModuleList(
            ConvStack(in_channels=in_channels, options=options, two_d=True) for _ in periods
        )

    def forward(self, x: Tensor) -> list[Judgement]:
        return [layer(self.fold(x, p)) for layer, p in zip(self.layers, self.periods)]

    @staticmethod
    def fold(x: Tensor, period: int) -> Tensor:
        """(b c n) -> (b c ceil(n/period) period), zero-padded at the end."""
        return F.pad(x, (0, -x.shape[-1] % period)).unflatten(-1, (-1, period))


class OobleckDiscriminator(Discriminator):
    """Hinge losses of the summed scores; distances of feature maps, scores included, summed over layers.

    Args:
        in_channels: audio channels.
    """

    def __init__(self, *, in_channels: Positive = 1) -> None:
        super().__init__()
        self._assemble(MultiScale(in_channels=in_channels), MultiPeriod(in_channels=in_channels))

    def _assemble(self, *networks: nn.Module) -> None:
        self.multi_discriminator = nn.ModuleDict({"discriminators": nn.ModuleList(networks)})

    @classmethod
    def of(cls, *networks: nn.Module) -> OobleckDiscriminator:
        """A discriminator with these networks, each of which returns a list of judgements."""
        discriminator = cls.__new__(cls)
        nn.Module.__init__(discriminator)
        discriminator._assemble(*networks)
        return discriminator

    @property
    def networks(self) -> list[nn.Module]:
        return list(cast(nn.ModuleList, self.multi_discriminator["discriminators"]))

    def judge(self, audio: Tensor) -> list[Judgement]:
        return [judgement for network in self.networks for judgement in network(audio)]

    def discriminator_loss(self, reals: Tensor, fakes: Tensor) -> Tensor:
        return self.real_and_fake(self._score(self.judge(reals)), self._score(self.judge(fakes)))

    def generator_losses(self, reals: Tensor, fakes: Tensor) -> GeneratorLosses:
        real, fake = self.judge(reals), self.judge(fakes)
        score = self._score(fake)
        return GeneratorLosses(self.as_real(score, score), self.feature_distance(real, fake))

    @staticmethod
    def _score(judgements: list[Judgement]) -> Tensor:
        """One score per item (b,): the mean of each score map, summed over the networks."""
        return torch.stack([j[-1].flatten(1).mean(1) for j in judgements]).sum(0)

    def feature_distance(self, real: list[Judgement], fake: list[Judgement]) -> Tensor:
        return torch.stack([F.l1_loss(a, b) for r, f in zip(real, fake) for a, b in zip(r, f)]).sum()
