"""Magnitudes of the short-time Fourier transform, decoded with an estimated phase."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.phase_gradient import RANGE, integrated_phases
from stable_audio.pretransforms.short_time import FrameOptions, ShortTimeTransform

SMOOTH_DB = 12.0
"""Bins whose neighbourhood varies by less than this belong to noise, whose phase is random."""

ONSET_DB = 9.0
"""A larger rise from one frame to the next is an onset, whose phase follows from the slopes."""

REACH = 6
"""Number of neighbouring bins on either side of a bin: more than the main lobe of a Hann window."""

LOUDEST = 1e5
"""Highest magnitude that is decoded, 100 dB above full scale."""


class MagnitudeSpectrogramPretransform(ShortTimeTransform):
    """STFT magnitudes to a power. Decoding integrates the phase and refines it by fast Griffin-Lim.

    Latents have every bin, so that every partial keeps its level: tones, decays and onsets are reconstructed
    closely if at least four windows overlap (`n_fft` >= 4 `hop_length`). The phase differs from the original,
    noise becomes another noise of the same spectrum, and channels are decoded separately. The same latents
    always give the same audio.

    1d: (b c n) -> (b c*bins n/hop); 2d: (b c bins n/hop), where bins = n_fft / 2 + 1.

    Args:
        frames: frames of the STFT; its fields are keywords as well.
        power: exponent of the magnitudes, which raises quiet partials.
        mean: mean of these values over the data; latents are (value - mean) / std.
        std: standard deviation of these values over the data.
        iterations: iterations of Griffin-Lim.
        momentum: momentum of Griffin-Lim.
        seed: seed of the phase of noise.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        frames: Flat[FrameOptions] = FrameOptions(channels=1, n_fft=1536, hop_length=384),  # noqa: B008 (frozen)
        power: float = 0.3,
        mean: float = 0.0,
        std: float = 1.0,
        iterations: int = 16,
        momentum: float = 0.99,
        seed: int = 0,
    ) -> None:
        super().__init__(frames)
        if not 0 < power <= 1 or std <= 0 or iterations < 0:
            raise ValueError(
                f"magnitude_spectrogram needs 0 < power <= 1, std > 0 and iterations >= 0, found {power}, "
                f"{std} and {iterations}"
            )
        self.power, self.mean, self.std = power, mean, std
        self.iterations, self.momentum, self.seed = iterations, momentum, seed
        self.settings = (frames.n_fft, float(power), float(mean), float(std), frames.layout)
        self.declare(frames.channels, frames.n_fft // 2 + 1)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return self.fold((self.stft(audio).abs() ** self.power - self.mean) / self.std)

    def decode(self, latents: Tensor) -> Tensor:
        values = self.unfold(latents).float() * self.std + self.mean
        # An untrained network may return any level, and squares of extreme values would overflow.
        magnitude = (values.clamp(min=0) ** (1 / self.power)).clamp(max=LOUDEST)
        audio = self.griffin_lim(
            magnitude, self._phases(magnitude), iterations=self.iterations, momentum=self.momentum
        )
        return audio.to(latents.dtype)

    def _phases(self, magnitude: Tensor) -> Tensor:
        angle = integrated_phases(magnitude, n_fft=self.n_fft, hop=self.hop)
        generator = torch.Generator().manual_seed(self.seed)
        noise = 2 * math.pi * torch.rand(magnitude.shape[1:], generator=generator).to(magnitude.device)
        return torch.where(_is_noise(magnitude), noise, angle)


def _is_noise(magnitude: Tensor) -> Tensor:
    """(b c bins frames) bool: True where magnitudes are smooth along frequency, except at onsets.

    Slopes of zero would be integrated to an impulse in the middle of every frame, a buzz at the frame rate.
    """
    loudest = magnitude.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    level = 20 * magnitude.clamp(min=RANGE * loudest).log10()
    frames = level.mT
    padded = F.pad(frames.flatten(0, -2)[:, None], (REACH, REACH), mode="replicate")
    size = 2 * REACH + 1
    spread = F.max_pool1d(padded, size, 1) + F.max_pool1d(-padded, size, 1)
    smooth = spread.view(frames.shape).mT < SMOOTH_DB
    rise = F.pad(level.diff(dim=-1), (1, 0))
    onset = F.max_pool1d(rise.flatten(0, -2)[:, None], 3, 1, 1).view(level.shape) > ONSET_DB
    return smooth & ~onset
