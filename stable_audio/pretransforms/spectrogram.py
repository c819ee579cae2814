"""The complex spectrogram, which is exactly invertible."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stable_audio.pretransforms.short_time import Layout, ShortTimeTransform


class SpectrogramPretransform(ShortTimeTransform):
    """Complex STFT with compressed magnitudes, real and imaginary part as channels. Exact inverse.

    1d: (b c n) -> (b 2*c*bins n/hop); 2d: (b 2*c bins n/hop), for 2-D backbones and autoencoder_kl.

    Args:
        channels: audio channels.
        n_fft: window and transform length; bins = n_fft / 2 + 1, so 510 gives 256 rows.
        hop_length: samples per frame.
        power: exponent of the magnitudes, which raises quiet partials; 1 leaves them unchanged.
        scale: factor of the result.
    """

    def __init__(
        self,
        *,
        channels: int = 2,
        n_fft: int = 510,
        hop_length: int = 128,
        power: float = 0.5,
        scale: float = 1.0,
        layout: Layout = "1d",
        enable_grad: bool = False,
    ) -> None:
        super().__init__(
            n_fft=n_fft, hop_length=hop_length, channels=channels, layout=layout, enable_grad=enable_grad
        )
        if not 0 < power <= 1 or scale <= 0:
            raise ValueError(f"a spectrogram needs 0 < power <= 1 and scale > 0, found {power} and {scale}")
        # Not named `scale`, which is a divisor of latents that stored ones do not include.
        self.power, self.gain = power, float(scale)
        self.settings = (n_fft, float(power), self.gain, layout)
        self.declare(2 * channels, n_fft // 2 + 1)
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
