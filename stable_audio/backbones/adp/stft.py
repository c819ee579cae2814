"""Short-time Fourier transform as a change of representation before the U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class STFT(nn.Module):
    """(b c n) <-> (b 2 * c * bins frames): real and imaginary parts, or magnitude and phase.

    Args:
        num_fft: transform size, bins = num_fft // 2 + 1.
        hop_length: samples between frames; num_fft // 4 by default.
        window_length: Hann window; num_fft by default.
        length: number of samples that `decode` returns; that of the encoded signal by default.
        use_complex: real and imaginary parts instead of magnitude and phase.
    """

    window: Tensor

    def __init__(
        self,
        *,
        num_fft: int = 1023,
        hop_length: int | None = 256,
        window_length: int | None = None,
        length: int | None = None,
        use_complex: bool = False,
    ) -> None:
        super().__init__()
        self.num_fft = num_fft
        self.hop_length = hop_length or num_fft // 4
        self.length = length
        self.use_complex = use_complex
        self.register_buffer("window", torch.hann_window(window_length or num_fft))

    @property
    def channels(self) -> int:
        """Number of channels into which one channel is transformed."""
        return 2 * (self.num_fft // 2 + 1)

    def encode(self, x: Tensor) -> Tensor:
        b, c, n = x.shape
        spectrum = torch.stft(
            x.reshape(b * c, n).float(),
            self.num_fft,
            self.hop_length,
            len(self.window),
            self.window.float(),
            return_complex=True,
            normalized=True,
        )
        parts = (spectrum.real, spectrum.imag) if self.use_complex else (spectrum.abs(), spectrum.angle())
        return torch.cat([p.reshape(b, -1, p.shape[-1]) for p in parts], dim=1).to(x.dtype)

    def decode(self, x: Tensor, length: int) -> Tensor:
        b, _, frames = x.shape
        first, second = (p.reshape(-1, self.num_fft // 2 + 1, frames) for p in x.float().chunk(2, dim=1))
        if self.use_complex:
            spectrum = torch.complex(first, second)
        else:
            spectrum = torch.complex(first * second.cos(), first * second.sin())
        wave = torch.istft(
            spectrum,
            self.num_fft,
            self.hop_length,
            len(self.window),
            self.window.float(),
            length=self.length or length,
            normalized=True,
        )
        return wave.reshape(b, -1, wave.shape[-1]).to(x.dtype)
