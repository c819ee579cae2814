"""Discriminators of the Descript audio codec (Kumar et al. 2023): periods, rates and spectrogram bands."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.conv import WNConv1d, WNConv2d
from stable_audio.pretransforms.discriminators.base import Discriminator, Judgement
from stable_audio.pretransforms.patched import SincResampler
from stable_audio.ranges import Positive

Band = tuple[float, float]


def _act(conv: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.LeakyReLU(0.1))


def _walk(layers: nn.ModuleList, last: nn.Module, x: Tensor) -> Judgement:
    maps = []
    for layer in layers:
        x = layer(x)
        maps.append(x)
    return [*maps, last(x)]


class PeriodDiscriminator(nn.Module):
    """Audio folded to (b c n/period period), convolved along time."""

    def __init__(self, *, period: int, in_channels: int) -> None:
        super().__init__()
        self.period = period
        widths, strides = [in_channels, 32, 128, 512, 1024, 1024], [3, 3, 3, 3, 1]
        self.convs = nn.ModuleList(
            _act(WNConv2d(a, b, (5, 1), stride=(s, 1), padding=(2, 0)))
            for a, b, s in zip(widths, widths[1:], strides)
        )
        self.conv_post = WNConv2d(1024, 1, (3, 1), padding=(1, 0))

    def forward(self, audio: Tensor) -> Judgement:
        # A full period is added even if none is missing, as in the original.
        padding = self.period - audio.shape[-1] % self.period
        folded = F.pad(audio, (0, padding), mode="reflect").unflatten(-1, (-1, self.period))
        return _walk(self.convs, self.conv_post, folded)


class RateDiscriminator(nn.Module):
    """Convolutions over the waveform at 1 / rate of its rate, channels separately."""

    def __init__(self, *, rate: int) -> None:
        super().__init__()
        self.resampler = SincResampler(up=1, down=rate) if rate > 1 else nn.Identity()
        layers = [
            WNConv1d(1, 16, 15, padding=7),
            WNConv1d(16, 64, 41, stride=4, groups=4, padding=20),
            WNConv1d(64, 256, 41, stride=4, groups=16, padding=20),
            WNConv1d(256, 1024, 41, stride=4, groups=64, padding=20),
            WNConv1d(1024, 1024, 41, stride=4, groups=256, padding=20),
            WNConv1d(1024, 1024, 5, padding=2),
        ]
        self.convs = nn.ModuleList(_act(layer) for layer in layers)
        self.conv_post = WNConv1d(1024, 1, 3, padding=1)

    def forward(self, audio: Tensor) -> Judgement:
        return _walk(self.convs, self.conv_post, self.resampler(audio.flatten(0, 1).unsqueeze(1)))


class BandDiscriminator(nn.Module):
    """The complex spectrogram in bands, each with its own convolutions; channels separately."""

    def __init__(self, *, window_length: int, bands: list[Band]) -> None:
        super().__init__()
        self.window_length, self.hop = window_length, window_length // 4
        bins = window_length // 2 + 1
        self.bands = [(int(low * bins), int(high * bins)) for low, high in bands]
        self.band_convs = nn.ModuleList(self._band() for _ in bands)
        self.conv_post = WNConv2d(32, 1, (3, 3), padding=(1, 1))

    @staticmethod
    def _band() -> nn.ModuleList:
        layers = [WNConv2d(2, 32, (3, 9), padding=(1, 4))]
        layers += [WNConv2d(32, 32, (3, 9), stride=(1, 2), padding=(1, 4)) for _ in range(3)]
        layers.append(WNConv2d(32, 32, (3, 3), padding=(1, 1)))
        return nn.ModuleList(_act(layer) for layer in layers)

    def spectrum(self, audio: Tensor) -> Tensor:
        """Audio (b c n) -> (b*c 2 frames bins), one frame per hop."""
        window = torch.hann_window(self.window_length, device=audio.device, dtype=audio.dtype)
        side = (self.window_length - self.hop) // 2
        flat = audio.flatten(0, 1)
        flat = F.pad(flat, (side, side + -audio.shape[-1] % self.hop), mode="reflect")
        spectrum = torch.stft(flat, self.window_length, self.hop, window=window, return_complex=True)
        return torch.view_as_real(spectrum[..., 2:-2]).permute(0, 3, 2, 1)

    def forward(self, audio: Tensor) -> Judgement:
        spectrum, maps, last = self.spectrum(audio), [], []
        for (low, high), convs in zip(self.bands, self.band_convs):
            x = spectrum[..., low:high]
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x)
                maps.append(x)
            last.append(x)
        return [*maps, self.conv_post(torch.cat(last, dim=-1))]


class DACDiscriminator(Discriminator):
    """Least-squares (or hinge) losses, summed over the networks; feature maps summed too.

    Args:
        in_channels: audio channels.
        rates: divisors of the sample rate, none by default.
        periods: periods in samples.
        fft_sizes: window lengths of the band discriminators.
        bands: bands, as fractions of the spectrum.
        use_hinge: hinge losses instead of least squares.
    """

    def __init__(
        self,
        *,
        in_channels: Positive = 1,
        rates: list[Positive] = [],  # noqa: B006
        periods: list[Positive] = [2, 3, 5, 7, 11],  # noqa: B006
        fft_sizes: list[Positive] = [2048, 1024, 512],  # noqa: B006
        bands: list[Band] = [(0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)],  # noqa: B006
        use_hinge: bool = False,
    ) -> None:
        super().__init__()
        if fft_sizes and not (bands and all(0 <= low < high <= 1 for low, high in bands)):
            raise ValueError(f"bands must be pairs of fractions from 0 to 1, the lower first, found {bands}")
        self.use_hinge = use_hinge
        networks: list[nn.Module] = [PeriodDiscriminator(period=p, in_channels=in_channels) for p in periods]
        networks += [RateDiscriminator(rate=r) for r in rates]
        networks += [BandDiscriminator(window_length=f, bands=bands) for f in fft_sizes]
        if not networks:
            raise ValueError("the dac discriminator needs at least one of rates, periods, fft_sizes")
        self.discriminator = nn.ModuleDict({"discriminators": nn.ModuleList(networks)})

    @property
    def networks(self) -> list[nn.Module]:
        return list(cast(nn.ModuleList, self.discriminator["discriminators"]))

    def judge(self, audio: Tensor) -> list[Judgement]:
        audio = audio - audio.mean(dim=-1, keepdim=True)
        audio = 0.8 * audio / (audio.abs().amax(dim=-1, keepdim=True) + 1e-9)
        return [part(audio) for part in self.networks]

    def real_and_fake(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.use_hinge:
            return super().real_and_fake(real, fake)
        return fake.square().mean() + (1 - real).square().mean()

    def as_real(self, real: Tensor, fake: Tensor) -> Tensor:
        return super().as_real(real, fake) if self.use_hinge else (1 - fake).square().mean()

    def combine(self, losses: list[Tensor]) -> Tensor:
        return torch.stack(losses).sum()

    def feature_distance(self, real: list[Judgement], fake: list[Judgement]) -> Tensor:
        return torch.stack(
            [F.l1_loss(a, b) for r, f in zip(real, fake) for a, b in zip(r[:-1], f[:-1])]
        ).sum()
