"""Multi-scale STFT discriminator of EnCodec (Defossez et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.conv import WNConv2d
from stable_audio.pretransforms.discriminators.base import Discriminator, Judgement
from stable_audio.ranges import Positive


class _Window(nn.Module):
    """Hann window under the name that checkpoints use."""

    window: Tensor

    def __init__(self, win_length: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(win_length))


class _Conv(nn.Module):
    """A convolution under the key `conv`."""

    def __init__(
        self, a: int, b: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), dilation: int = 1
    ) -> None:
        super().__init__()
        padding = ((kernel[0] - 1) * dilation // 2, (kernel[1] - 1) // 2)
        self.conv = WNConv2d(a, b, kernel, stride=stride, dilation=(dilation, 1), padding=padding)
        self.stride, self.lost = stride, ((kernel[0] - 1) * dilation % 2, (kernel[1] - 1) % 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(frames, bins) that come out; 0 or less where the kernel is larger than what comes in."""
        return tuple((n - lost - 1) // s + 1 for n, lost, s in zip(size, self.lost, self.stride))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class STFTDiscriminatorOptions:
    """Options of the discriminators of all resolutions.

    Attributes:
        in_channels: audio channels.
        filters: width of the first layer.
        filters_scale: factor by which the width grows from layer to layer.
        max_filters: largest width of a layer.
        kernel_size: kernel of the inner convolutions, (time, frequency).
        stride: stride of the inner convolutions, (time, frequency).
        dilations: dilation in time of each inner convolution.
        spec_scale_pow: spectra are multiplied by their magnitude to this power.
    """

    in_channels: Positive = 2
    filters: Positive = 32
    filters_scale: Positive = 1
    max_filters: Positive = 1024
    kernel_size: tuple[Positive, Positive] = (3, 9)
    stride: tuple[Positive, Positive] = (1, 1)
    dilations: list[Positive] = field(default_factory=lambda: [1, 2, 4])
    spec_scale_pow: float = 0.0


class STFTDiscriminator(nn.Module):
    """2-D convolutions over one complex spectrogram (b 2c frames bins)."""

    def __init__(
        self, *, n_fft: int, hop_length: int, win_length: int, options: STFTDiscriminatorOptions
    ) -> None:
        super().__init__()
        o = options
        self.n_fft, self.hop, self.win = n_fft, hop_length, win_length
        self.spec_scale_pow, self.kernel_size = o.spec_scale_pow, o.kernel_size
        self.spec_transform = _Window(win_length)
        widths = [min(o.filters * o.filters_scale**i, o.max_filters) for i in range(len(o.dilations) + 2)]
        widths[0] = o.filters
        kernel, square = o.kernel_size, (o.kernel_size[0], o.kernel_size[0])
        layers = [_Conv(2 * o.in_channels, widths[0], kernel)]
        layers += [_Conv(a, b, kernel, o.stride, d) for a, b, d in zip(widths, widths[1:], o.dilations)]
        layers.append(_Conv(widths[-2], widths[-1], square))
        self.convs = nn.ModuleList(layers)
        self.conv_post = _Conv(widths[-1], 1, square)

    def forward(self, audio: Tensor) -> Judgement:
        x, maps = self.spectrum(audio), []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
            maps.append(x)
        return [*maps, self.conv_post(x)]

    def check_length(self, samples: int) -> None:
        """Check that kernels of even size leave something of a clip.

        Raises:
            ValueError: they do not.
        """
        size = (1 + (samples - self.n_fft) // self.hop, self.n_fft // 2 + 1)
        for conv in (*self.convs, self.conv_post):
            size = conv.size(size)  # type: ignore[operator]
        if min(size) < 1:
            raise ValueError(
                f"kernel_size {list(self.kernel_size)} leaves nothing of the spectrogram of a clip of "
                f"{samples} samples at n_fft {self.n_fft}, since each layer with an even size "
                "takes one frame or bin; give odd sizes, or longer clips"
            )

    def spectrum(self, audio: Tensor) -> Tensor:
        """Audio (b c n) -> real and imaginary parts (b 2c frames bins); magnitudes may be compressed."""
        b, c, n = audio.shape
        if n < self.n_fft:
            raise ValueError(f"the discriminator's window has {self.n_fft} samples, the audio {n}")
        window = self.spec_transform.window
        flat = torch.stft(
            audio.reshape(b * c, n),
            self.n_fft,
            self.hop,
            self.win,
            window,
            center=False,
            return_complex=True,
        )
        spectrum = (flat / window.square().sum().sqrt()).unflatten(0, (b, c))
        if self.spec_scale_pow:
            spectrum = spectrum * (spectrum.abs() + 1e-6).pow(self.spec_scale_pow)
        return torch.cat([spectrum.real, spectrum.imag], dim=1).mT


class EncodecDiscriminator(Discriminator):
    """STFT discriminators at several resolutions; hinge or relativistic losses.

    Args:
        options: layers of all resolutions; its fields are keywords as well.
        n_ffts: transform length of each resolution.
        hop_lengths: hop of each resolution in samples.
        win_lengths: window length of each resolution in samples.
        normalize_losses: divide the distance of each feature map by the mean magnitude of that of the reals.
        loss_type: hinge, or rpgan (relativistic pairing, Huang et al. 2024).
    """

    @takes_keywords
    def __init__(
        self,
        *,
        options: Flat[STFTDiscriminatorOptions] = STFTDiscriminatorOptions(),
        n_ffts: list[Positive] = [1024, 2048, 512],  # noqa: B006
        hop_lengths: list[Positive] = [256, 512, 128],  # noqa: B006
        win_lengths: list[Positive] = [1024, 2048, 512],  # noqa: B006
        normalize_losses: bool = False,
        loss_type: Literal["hinge", "rpgan"] = "hinge",
    ) -> None:
        super().__init__()
        if not len(n_ffts) == len(hop_lengths) == len(win_lengths) > 0:
            raise ValueError(
                f"n_ffts, hop_lengths and win_lengths need one entry per resolution, found {n_ffts}, "
                f"{hop_lengths}, {win_lengths}"
            )
        if any(w > n for n, w in zip(n_ffts, win_lengths)):
            raise ValueError(f"win_lengths must be at most n_ffts, found {win_lengths} and {n_ffts}")
        if loss_type not in ("hinge", "rpgan"):
            raise ValueError(f'loss_type must be "hinge" or "rpgan", found {loss_type!r}')
        self.normalize_losses, self.relativistic = normalize_losses, loss_type == "rpgan"
        networks = nn.ModuleList(
            STFTDiscriminator(n_fft=n, hop_length=h, win_length=w, options=options)
            for n, h, w in zip(n_ffts, hop_lengths, win_lengths)
        )
        self.discriminators = nn.ModuleDict({"discriminators": networks})

    @property
    def networks(self) -> list[nn.Module]:
        return list(cast(nn.ModuleList, self.discriminators["discriminators"]))

    def check_length(self, samples: int) -> None:
        for part in cast(list[STFTDiscriminator], self.networks):
            if samples >= part.n_fft:  # shorter clips than a window are told elsewhere
                part.check_length(samples)

    def judge(self, audio: Tensor) -> list[Judgement]:
        return [part(audio) for part in self.networks]

    def real_and_fake(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.relativistic:
            return F.softplus(fake - real).mean()
        return super().real_and_fake(real, fake)

    def as_real(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(real - fake).mean() if self.relativistic else super().as_real(real, fake)

    def feature_distance(self, real: list[Judgement], fake: list[Judgement]) -> Tensor:
        if not self.normalize_losses:
            return super().feature_distance(real, fake)
        scales = []
        for r, f in zip(real, fake):
            layers = [F.l1_loss(a, b) / (a.abs().mean() + 1e-3) for a, b in zip(r[:-1], f[:-1])]
            scales.append(torch.stack(layers).mean())
        return torch.stack(scales).mean()
