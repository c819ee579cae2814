"""The complex STFT as latents, which can be undone exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stable_audio.options import Flat, takes_keywords
from stable_audio.pretransforms.short_time import FrameOptions, ShortTimeTransform


class SpectrogramPretransform(ShortTimeTransform):
    """Complex STFT with compressed magnitudes, real and imaginary part as channels. Exact inverse.

    1d: (b c n) -> (b 2*c*bins n/hop); 2d: (b 2*c bins n/hop), for 2-D backbones and autoencoder_kl.

    Args:
        frames: frames of the STFT; its fields are keywords as well.
        power: exponent of the magnitudes, which raises quiet partials; 1 leaves them unchanged.
        scale: factor of the result.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        frames: Flat[FrameOptions] = FrameOptions(),  # noqa: B008 (frozen)
        power: float = 0.5,
        scale: float = 1.0,
    ) -> None:
        super().__init__(frames)
        if not 0 < power <= 1 or scale <= 0:
            raise ValueError(f"a spectrogram needs 0 < power <= 1 and scale > 0, found {power} and {scale}")
        # Not named `scale`, which is a divisor of latents that stored ones do not include.
        self.power, self.gain = power, float(scale)
        self.settings = (frames.n_fft, float(power), self.gain, frames.layout)
        self.declare(2 * frames.channels, frames.n_fft // 2 + 1)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        spectrum = self.stft(audio)
        planes = torch.stack([spectrum.real, spectrum.imag], dim=2).flatten(1, 2)
        return self.fold(self.gain * self._compress(planes, self.power))

    def decode(self, latents: Tensor) -> Tensor:
        planes = self._compress(self.unfold(latents) / self.gain, 1 / self.power)
        real, imag = planes.unflatten(1, (-1, 2)).unbind(2)
        return self.istft(torch.complex(real.contiguous(), imag.contiguous()))

    @staticmethod
    def _compress(planes: Tensor, power: float) -> Tensor:
        """Raise the magnitude of (real, imaginary) pairs of channels to `power`; the phase stays."""
        pairs = planes.unflatten(1, (-1, 2))
        magnitude = pairs.square().sum(2, keepdim=True).clamp(min=1e-24).sqrt()
        return (pairs * magnitude ** (power - 1)).flatten(1, 2)
