"""The short-time Fourier transform with one frame per hop, which pretransforms of spectrograms share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.pretransforms.base import Pretransform


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """The frames of a spectrogram.

    Attributes:
        channels: audio channels.
        n_fft: window and transform length; bins = n_fft / 2 + 1, so 510 gives 256 rows.
        hop_length: samples per frame.
        layout: 1d folds rows into channels; 2d has them as an axis, for 2-D backbones and autoencoder_kl.
        enable_grad: whether gradients pass through.
    """

    channels: int = 2
    n_fft: int = 510
    hop_length: int = 128
    layout: Literal["1d", "2d"] = "1d"
    enable_grad: bool = False

    def __post_init__(self) -> None:
        n_fft, hop = self.n_fft, self.hop_length
        if n_fft % 2 or hop < 1 or (n_fft - hop) % 2 or 2 * hop > n_fft:
            raise ValueError(
                f"a spectrogram needs an even n_fft of at least twice hop_length, and n_fft - hop_length "
                f"even, found n_fft={n_fft}, hop_length={hop}"
            )
        if self.layout not in ("1d", "2d"):
            raise ValueError(f'layout must be "1d" or "2d", found {self.layout!r}')
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, found {self.channels}")


class ShortTimeTransform(Pretransform):
    """STFT with one frame per hop, and its least-squares inverse (Griffin and Lim 1984).

    The audio is padded with zeros by (n_fft - hop) / 2 on both sides, so n samples give n / hop frames
    and the windows cover every sample. Values are divided by the window's energy: white noise of
    unit variance has unit variance in every bin.
    """

    window: Tensor

    def __init__(self, frames: FrameOptions) -> None:
        super().__init__(enable_grad=frames.enable_grad)
        self.n_fft, self.hop, self.layout = frames.n_fft, frames.hop_length, frames.layout
        self.io_channels, self.downsampling_ratio = frames.channels, frames.hop_length
        self.register_buffer("window", torch.hann_window(frames.n_fft), persistent=False)

    def declare(self, planes: int, rows: int) -> None:
        """Set the size of the latents: `planes` images of `rows` rows, folded into channels in layout 1d."""
        self.planes, self.rows = planes, rows
        self.encoded_channels = planes if self.layout == "2d" else planes * rows
        self.latent_height = rows if self.layout == "2d" else None

    def fold(self, images: Tensor) -> Tensor:
        """(b planes rows n) -> latents in the layout."""
        return images if self.layout == "2d" else images.flatten(1, 2)

    def unfold(self, latents: Tensor) -> Tensor:
        """Latents in the layout -> (b planes rows n)."""
        return latents if self.layout == "2d" else latents.unflatten(1, (self.planes, self.rows))

    def stft(self, audio: Tensor, hop: int | None = None) -> Tensor:
        """Audio (b c n) -> complex (b c n_fft/2+1 ceil(n/hop)).

        Args:
            hop: samples per frame; None takes the hop of the latents.
        """
        hop = hop or self.hop
        padding, side = -audio.shape[-1] % hop, (self.n_fft - hop) // 2
        frames = F.pad(audio, (side, side + padding)).unfold(-1, self.n_fft, hop)
        window = self.window.to(audio.dtype)
        return torch.fft.rfft(frames * (window / window.square().sum().sqrt())).mT

    def istft(self, spectrum: Tensor, hop: int | None = None) -> Tensor:
        """Complex (b c n_fft/2+1 frames) -> audio (b c frames*hop)."""
        hop = hop or self.hop
        b, c, _, frames = spectrum.shape
        window = self.window.to(spectrum.real.dtype)
        pieces = torch.fft.irfft(spectrum.mT, n=self.n_fft) * window.square().sum().sqrt() * window
        total = self._overlap_add(pieces.flatten(0, 1), hop)
        weight = self._overlap_add(window.square().expand(1, frames, -1), hop)
        side = (self.n_fft - hop) // 2
        audio = (total / weight.clamp(min=1e-11))[..., side : side + frames * hop]
        return audio.view(b, c, -1)

    def griffin_lim(
        self, magnitude: Tensor, angle: Tensor, *, iterations: int, momentum: float, hop: int | None = None
    ) -> Tensor:
        """Magnitudes (b c bins frames) -> audio (b c frames*hop), by fast Griffin-Lim (Perraudin 2013).

        Args:
            magnitude: magnitudes of the audio.
            angle: initial phases in radians, of the same shape or that of one item.
            iterations: number of updates of the phase from the STFT of the audio; 0 keeps `angle`.
            momentum: weight of the last change of the STFT, added to each update; 0: Griffin and Lim 1984.
            hop: samples per frame; None takes the hop of the latents.
        """
        phase = torch.polar(torch.ones_like(angle), angle).to(magnitude.device)
        previous: Tensor | None = None
        for _ in range(iterations):
            spectrum = self.stft(self.istft(magnitude * phase, hop), hop)
            step = spectrum if previous is None else spectrum + momentum * (spectrum - previous)
            phase = step / step.abs().clamp(min=1e-12)
            previous = spectrum
        return self.istft(magnitude * phase, hop)

    def _overlap_add(self, pieces: Tensor, hop: int) -> Tensor:
        """(b frames n_fft) -> (b n)."""
        length = (pieces.shape[1] - 1) * hop + self.n_fft
        columns = pieces.mT
        return F.fold(columns, (1, length), (1, self.n_fft), stride=(1, hop)).view(pieces.shape[0], length)
