"""Distances of mel spectrograms at several resolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.pretransforms.losses.stft import STFTLoss


class MultiResolutionMelLoss(nn.Module):
    """Distances of mel spectrograms at several resolutions, with hops of a quarter window.

    Args:
        sample_rate: sample rate in Hz of the audio.
        n_mels: mel bands of each resolution.
        window_lengths: window length of each resolution in samples.
        pow: exponent of the mel magnitudes before the logarithm.
        log_weight: weight of the mean absolute difference of log10 magnitudes.
        mag_weight: weight of the mean absolute difference of magnitudes.
    """

    def __init__(
        self,
        *,
        sample_rate: float,
        n_mels: list[int] = [5, 10, 20, 40, 80, 160, 320],  # noqa: B006
        window_lengths: list[int] = [32, 64, 128, 256, 512, 1024, 2048],  # noqa: B006
        pow: float = 1.0,
        log_weight: float = 1.0,
        mag_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if len(n_mels) != len(window_lengths):
            raise ValueError(f"n_mels and window_lengths differ in length: {n_mels}, {window_lengths}")
        self.pow, self.log_weight, self.mag_weight = pow, log_weight, mag_weight
        self.bands = nn.ModuleList(
            STFTLoss(
                fft_size=w,
                hop_size=max(1, w // 4),
                win_length=w,
                scale="mel",
                n_bins=m,
                sample_rate=sample_rate,
            )
            for m, w in zip(n_mels, window_lengths)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (b c n) -> scalar, summed over resolutions."""
        losses = []
        for band in self.bands:
            a, b = band.spectrum(x)[0], band.spectrum(y)[0]  # type: ignore[operator]
            if self.mag_weight:
                losses.append(self.mag_weight * F.l1_loss(a, b))
            if self.log_weight:
                a, b = (v.clamp(min=1e-5).pow(self.pow).log10() for v in (a, b))
                losses.append(self.log_weight * F.l1_loss(a, b))
        return torch.stack(losses).sum()
