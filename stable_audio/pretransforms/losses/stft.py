"""Distances of spectrograms at several resolutions (Yamamoto et al. 2020, Steinmetz and Reiss 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.losses.filters import a_weighting_taps, slaney_mel_filters


@dataclass(frozen=True, kw_only=True)
class DistanceOptions:
    """Options of the comparison of two spectrograms.

    Attributes:
        window: torch window function of the STFT.
        w_sc: weight of the spectral convergence.
        w_log_mag: weight of the distance of log magnitudes.
        w_lin_mag: weight of the distance of magnitudes.
        w_phs: weight of the distance of complex bins, relative to their size.
        sample_rate: sample rate in Hz, needed for mel bins and A-weighting.
        scale: "mel" compares `n_bins` mel bands.
        n_bins: number of mel bands.
        perceptual_weighting: A-weight the audio first.
        scale_invariance: fit the gain of X to Y first.
        eps: smallest power; magnitudes are clamped at its square root.
        mag_distance: L1 or L2 (mean squared) between magnitudes and between log magnitudes.
    """

    window: Literal["hann_window", "hamming_window", "blackman_window"] = "hann_window"
    w_sc: float = 1.0
    w_log_mag: float = 1.0
    w_lin_mag: float = 0.0
    w_phs: float = 0.0
    sample_rate: float | None = None
    scale: Literal["mel"] | None = None
    n_bins: int | None = None
    perceptual_weighting: bool = False
    scale_invariance: bool = False
    eps: float = 1e-8
    mag_distance: Literal["L1", "L2"] = "L1"

    def __post_init__(self) -> None:
        if (self.scale is not None or self.perceptual_weighting) and self.sample_rate is None:
            raise ValueError("mel scale and perceptual_weighting need sample_rate")
        if (self.scale is None) != (self.n_bins is None):
            raise ValueError(
                f"scale and n_bins go together, found scale={self.scale!r}, n_bins={self.n_bins}"
            )
        if self.mag_distance not in ("L1", "L2"):
            raise ValueError(f'mag_distance must be "L1" or "L2", found {self.mag_distance!r}')

    def mel_filters(self, fft_size: int) -> Tensor | None:
        """The mel bands (n_bins fft_size/2+1); None: compare the bins themselves."""
        if self.n_bins is None or self.sample_rate is None:
            return None
        return slaney_mel_filters(self.n_bins, fft_size, self.sample_rate)

    def weighting_taps(self) -> Tensor | None:
        """The filter (1 1 taps) of A-weighting; None: compare the audio without a filter."""
        if not self.perceptual_weighting or self.sample_rate is None:
            return None
        return a_weighting_taps(self.sample_rate)[None, None]


class STFTLoss(nn.Module):
    """w_sc * convergence + w_log_mag * log distance + w_lin_mag * linear distance + w_phs * phase distance.

    Convergence is ||Y - X||_F / ||Y||_F per channel of the batch, X the first argument and Y the second;
    autoencoder training passes the target first. Magnitudes are clamped at sqrt(eps).

    Args:
        fft_size: transform length of the STFT.
        hop_size: hop of the STFT in samples.
        win_length: window length of the STFT in samples.
        options: options of the comparison; its fields are keywords as well.
    """

    window: Tensor
    filters: Tensor | None
    taps: Tensor | None

    @takes_keywords
    def __init__(
        self,
        *,
        fft_size: int = 1024,
        hop_size: int = 256,
        win_length: int = 1024,
        options: Flat[DistanceOptions] = DistanceOptions(),
    ) -> None:
        super().__init__()
        if not 0 < win_length <= fft_size:
            raise ValueError(f"win_length must be at most fft_size={fft_size}, found {win_length}")
        self.fft_size, self.hop_size, self.win_length = fft_size, hop_size, win_length
        self.options = options
        self.distance = F.l1_loss if options.mag_distance == "L1" else F.mse_loss
        self.register_buffer("window", getattr(torch, options.window)(win_length), persistent=False)
        self.register_buffer("filters", options.mel_filters(fft_size), persistent=False)
        self.register_buffer("taps", options.weighting_taps(), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (b c n) -> scalar."""
        return self.compare(self.weigh(x), self.weigh(y))

    def weigh(self, audio: Tensor) -> Tensor:
        """Audio (b c n) -> (b*c n), A-weighted with `perceptual_weighting`."""
        x = audio.flatten(0, -2)
        if self.taps is None:
            return x
        return F.conv1d(x[:, None], self.taps.to(x.dtype), padding=self.taps.shape[-1] // 2)[:, 0]

    def compare(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of two outputs of `weigh`."""
        (x_mag, x_bins), (y_mag, y_bins) = self._bins(x), self._bins(y)
        if self.options.scale_invariance:
            gain = (x_mag * y_mag).sum((-2, -1)) / y_mag.square().sum((-2, -1))
            y_mag = y_mag * gain[:, None, None]
        loss = x_mag.new_zeros(())
        if self.options.w_sc:
            norm = torch.linalg.matrix_norm(y_mag - x_mag) / torch.linalg.matrix_norm(y_mag)
            loss = loss + self.options.w_sc * norm.mean()
        if self.options.w_log_mag:
            loss = loss + self.options.w_log_mag * self.distance(x_mag.log(), y_mag.log())
        if self.options.w_lin_mag:
            loss = loss + self.options.w_lin_mag * self.distance(x_mag, y_mag)
        if self.options.w_phs:
            loss = loss + self.options.w_phs * self.phase_distance(x_bins, y_bins)
        return loss

    def spectrum(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (b c n) -> magnitudes, in mel bands with `scale`, and complex bins (b*c bins frames)."""
        return self._bins(self.weigh(audio))

    def _bins(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] <= self.fft_size // 2:
            raise ValueError(
                f"an STFT loss with fft_size {self.fft_size} needs more than {self.fft_size // 2} samples, "
                f"found {x.shape[-1]}"
            )
        z = torch.stft(
            x, self.fft_size, self.hop_size, self.win_length, self.window.to(x.dtype), return_complex=True
        )
        magnitude = (z.real.square() + z.imag.square()).clamp(min=self.options.eps).sqrt()
        if self.filters is not None:
            magnitude = self.filters.to(x.dtype) @ magnitude
        return magnitude, z

    def phase_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean of 2 |X - Y| / (|X| + |Y|) over complex bins: 0 where equal, 2 where opposite."""
        size = sum((z.real.square() + z.imag.square()).clamp(min=self.options.eps).sqrt() for z in (x, y))
        return (2 * (x - y).abs() / size).mean()


@dataclass(frozen=True, kw_only=True)
class Resolutions:
    """The transforms of a loss at several resolutions.

    Attributes:
        fft_sizes: transform length of each resolution.
        hop_sizes: hop of each resolution in samples.
        win_lengths: window length of each resolution in samples.
    """

    fft_sizes: list[int] = field(default_factory=lambda: [1024, 2048, 512])
    hop_sizes: list[int] = field(default_factory=lambda: [120, 240, 50])
    win_lengths: list[int] = field(default_factory=lambda: [600, 1200, 240])

    def __post_init__(self) -> None:
        if not len(self.fft_sizes) == len(self.hop_sizes) == len(self.win_lengths) > 0:
            raise ValueError(
                f"fft_sizes, hop_sizes and win_lengths need one entry per resolution, found "
                f"{self.fft_sizes}, {self.hop_sizes}, {self.win_lengths}"
            )


class MultiResolutionSTFTLoss(nn.Module):
    """The mean of STFTLoss over resolutions.

    Args:
        resolutions: transforms of each; its fields are keywords as well.
        options: options of the comparison; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        resolutions: Flat[Resolutions] = Resolutions(),
        options: Flat[DistanceOptions] = DistanceOptions(),
    ) -> None:
        super().__init__()
        self.stft_losses = nn.ModuleList(
            STFTLoss(fft_size=f, hop_size=h, win_length=w, options=options)
            for f, h, w in zip(resolutions.fft_sizes, resolutions.hop_sizes, resolutions.win_lengths)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (b c n) -> scalar."""
        first = self.stft_losses[0]
        x, y = first.weigh(x), first.weigh(y)  # type: ignore[operator]  # the same at all resolutions
        return torch.stack([loss.compare(x, y) for loss in self.stft_losses]).mean()  # type: ignore[operator]


def distance_for(length: int) -> MultiResolutionSTFTLoss:
    """A plain distance for reports on clips of `length` samples: windows 2048, 512, 128 that fit."""
    sizes = [s for s in (2048, 512, 128) if s <= length] or [16]
    return MultiResolutionSTFTLoss(fft_sizes=sizes, hop_sizes=[s // 4 for s in sizes], win_lengths=sizes)


class SumAndDifferenceSTFTLoss(nn.Module):
    """Stereo: (w_sum * loss of left + right, plus w_diff * loss of left - right) / 2.

    Args:
        w_sum: weight of the loss of the sum.
        w_diff: weight of the loss of the difference.
        resolutions: transforms of each; its fields are keywords as well.
        options: options of the comparison; its fields are keywords as well.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        w_sum: float = 1.0,
        w_diff: float = 1.0,
        resolutions: Flat[Resolutions] = Resolutions(),
        options: Flat[DistanceOptions] = DistanceOptions(),
    ) -> None:
        super().__init__()
        self.w_sum, self.w_diff = w_sum, w_diff
        self.mrstft = MultiResolutionSTFTLoss(resolutions=resolutions, options=options)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (b 2 n) -> scalar."""
        if x.shape[1] != 2:
            raise ValueError(f"sum and difference need two channels, found {x.shape[1]}")
        total = self.mrstft(x[:, :1] + x[:, 1:], y[:, :1] + y[:, 1:])
        difference = self.mrstft(x[:, :1] - x[:, 1:], y[:, :1] - y[:, 1:])
        return (self.w_sum * total + self.w_diff * difference) / 2
