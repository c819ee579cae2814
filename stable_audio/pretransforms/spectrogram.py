"""Spectrograms: the complex STFT, which can be undone exactly, and mel magnitudes, which cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.phase import peak_phases

Layout = Literal["1d", "2d"]


class _ShortTime(Pretransform):
    """STFT with one frame per hop, and its least-squares inverse (Griffin and Lim 1984).

    The audio is padded with zeros by (n_fft - hop) / 2 on both sides, so n samples give n / hop frames
    and every sample lies under the window. Values are divided by the window's energy: white noise of
    unit variance has unit variance in every bin.
    """

    window: Tensor

    def __init__(self, *, n_fft: int, hop_length: int, channels: int, layout: Layout, enable_grad: bool):
        super().__init__(enable_grad=enable_grad)
        if n_fft % 2 or hop_length < 1 or (n_fft - hop_length) % 2 or 2 * hop_length > n_fft:
            raise ValueError(
                f"a spectrogram needs an even n_fft of at least twice hop_length, and n_fft - hop_length "
                f"even, found n_fft={n_fft}, hop_length={hop_length}"
            )
        if layout not in ("1d", "2d"):
            raise ValueError(f'layout must be "1d" or "2d", found {layout!r}')
        if channels < 1:
            raise ValueError(f"channels must be at least 1, found {channels}")
        self.n_fft, self.hop, self.layout = n_fft, hop_length, layout
        self.io_channels, self.downsampling_ratio = channels, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def _declare(self, planes: int, rows: int) -> None:
        """`planes` images of `rows` rows: channels of a 2-D latent, or rows folded into channels."""
        self.planes, self.rows = planes, rows
        self.encoded_channels = planes if self.layout == "2d" else planes * rows
        self.latent_height = rows if self.layout == "2d" else None

    def _fold(self, images: Tensor) -> Tensor:
        return images if self.layout == "2d" else images.flatten(1, 2)

    def _unfold(self, latents: Tensor) -> Tensor:
        return latents if self.layout == "2d" else latents.unflatten(1, (self.planes, self.rows))

    def stft(self, audio: Tensor, hop: int | None = None) -> Tensor:
        """Audio (b c n) -> complex (b c n_fft/2+1 ceil(n/hop)).

        Args:
            hop: samples per frame; None takes the hop of the latents.
        """
        hop = hop or self.hop
        missing, side = -audio.shape[-1] % hop, (self.n_fft - hop) // 2
        frames = F.pad(audio, (side, side + missing)).unfold(-1, self.n_fft, hop)
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

    def _overlap_add(self, pieces: Tensor, hop: int) -> Tensor:
        """(b frames n_fft) -> (b n)."""
        length = (pieces.shape[1] - 1) * hop + self.n_fft
        columns = pieces.mT
        return F.fold(columns, (1, length), (1, self.n_fft), stride=(1, hop)).view(pieces.shape[0], length)


class SpectrogramPretransform(_ShortTime):
    """Complex STFT with compressed magnitudes, real and imaginary part as channels. Exact inverse.

    1d: (b c n) -> (b 2*c*bins n/hop); 2d: (b 2*c bins n/hop), for 2-D backbones and autoencoder_kl.

    Args:
        channels: audio channels.
        n_fft: window and transform length; bins = n_fft / 2 + 1, so 510 gives 256 rows.
        hop_length: samples per frame.
        power: magnitudes are raised to it, which lifts quiet partials; 1 leaves them.
        scale: multiplies the result.
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
        # Not `scale`, which is what latents were divided by and what stored ones are without.
        self.power, self.gain = power, float(scale)
        self.settings = (n_fft, float(power), self.gain, layout)
        self._declare(2 * channels, n_fft // 2 + 1)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        spectrum = self.stft(audio)
        planes = torch.stack([spectrum.real, spectrum.imag], dim=2).flatten(1, 2)
        return self._fold(self.gain * self._compress(planes, self.power))

    def decode(self, latents: Tensor) -> Tensor:
        planes = self._compress(self._unfold(latents) / self.gain, 1 / self.power)
        real, imag = planes.unflatten(1, (-1, 2)).unbind(2)
        return self.istft(torch.complex(real.contiguous(), imag.contiguous()))

    @staticmethod
    def _compress(planes: Tensor, power: float) -> Tensor:
        """Raise the magnitude of (real, imaginary) pairs of channels to `power`; the phase stays."""
        pairs = planes.unflatten(1, (-1, 2))
        magnitude = pairs.square().sum(2, keepdim=True).clamp(min=1e-24).sqrt()
        return (pairs * magnitude ** (power - 1)).flatten(1, 2)


def mel_filters(
    n_mels: int, n_fft: int, sample_rate: int, f_min: float, f_max: float, break_hz: float = 700.0
) -> Tensor:
    """Triangular filters (n_mels n_fft/2+1) of equal area (Slaney), evenly spaced in log(1 + f/break_hz).

    700 Hz gives the HTK mel scale; less gives the low end more filters.
    """
    low, high = math.log1p(f_min / break_hz), math.log1p(f_max / break_hz)
    edges = break_hz * torch.expm1(torch.linspace(low, high, n_mels + 2, dtype=torch.float64))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rise, fall).clamp(min=0)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


LOUDEST = 1e5
"""Highest magnitude that mel spectrograms decode, 100 dB above full scale."""


class MelSpectrogramPretransform(_ShortTime):
    """Mel magnitudes in decibels or under a power: for pictures and small models. Decoding guesses the phase.

    Decoding solves for non-negative magnitudes (multiplicative updates, Lee and Seung 1999), then runs
    the fast Griffin-Lim algorithm (Perraudin et al. 2013) from a phase drawn with a fixed seed or from
    sinusoids at the peaks: the same latents always give the same audio, but transients smear and phase is
    not the original's.

    1d: (b c n) -> (b c*n_mels n/hop); 2d: (b c n_mels n/hop).

    Args:
        sample_rate: sample rate in Hz.
        n_mels: number of mel filters.
        f_min: lower end of the filters in Hz.
        f_max: upper end of the filters in Hz; None takes half the sample rate.
        break_hz: see `mel_filters`.
        floor_db: quietest level, mapped to -1; 0 dB is mapped to 1.
        power: values are magnitudes raised to it instead of decibels, whose errors grow without bound.
        mean: mean of these values over the data; latents are (value - mean) / std.
        std: standard deviation of these values over the data.
        interpolation: decoding makes this many frames of each, so that windows overlap enough for steady
            tones to sound steady; a divisor of hop_length.
        initial_phase: "random" suits noise, "peaks" tones.
        iterations: iterations of Griffin-Lim.
        momentum: momentum of Griffin-Lim.
        seed: seed of Griffin-Lim's random phase.
    """

    filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        channels: int = 1,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 80,
        f_min: float = 0.0,
        f_max: float | None = None,
        break_hz: float = 700.0,
        floor_db: float = -100.0,
        power: float | None = None,
        mean: float = 0.0,
        std: float = 1.0,
        interpolation: int = 1,
        initial_phase: Literal["random", "peaks"] = "random",
        iterations: int = 32,
        momentum: float = 0.99,
        seed: int = 0,
        layout: Layout = "1d",
        enable_grad: bool = False,
    ) -> None:
        super().__init__(
            n_fft=n_fft, hop_length=hop_length, channels=channels, layout=layout, enable_grad=enable_grad
        )
        top = sample_rate / 2 if f_max is None else f_max
        if not 0 <= f_min < top <= sample_rate / 2 or floor_db >= 0:
            raise ValueError(
                f"mel_spectrogram needs 0 <= f_min < f_max <= sample_rate / 2 and floor_db < 0, found "
                f"{f_min}, {top}, {sample_rate} and {floor_db}"
            )
        if (
            std <= 0
            or break_hz <= 0
            or (power is not None and power <= 0)
            or initial_phase not in ("random", "peaks")
        ):
            raise ValueError(
                f"mel_spectrogram needs std > 0, break_hz > 0, power > 0 and an initial_phase of 'random' or "
                f"'peaks', found {std}, {break_hz}, {power} and {initial_phase!r}"
            )
        self.sample_rate, self.floor_db = sample_rate, floor_db
        if interpolation < 1 or hop_length % interpolation or (n_fft - hop_length // interpolation) % 2:
            raise ValueError(
                f"mel_spectrogram needs an interpolation that divides hop_length into even steps, found "
                f"{interpolation} and {hop_length}"
            )
        self.interpolation = interpolation
        self.power, self.mean, self.std, self.initial_phase = power, mean, std, initial_phase
        self.iterations, self.momentum, self.seed = iterations, momentum, seed
        values = (floor_db, mean, std, -1 if power is None else power)
        self.settings = (sample_rate, n_fft, n_mels, *map(float, (f_min, top, break_hz, *values)), layout)
        filters = mel_filters(n_mels, n_fft, sample_rate, f_min, top, break_hz)
        self.register_buffer("filters", filters, persistent=False)
        self._declare(channels, n_mels)
        self.freeze_unless_trained()

    def encode(self, audio: Tensor, *, noise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        mels = self.filters.to(audio.dtype) @ self.stft(audio).abs()
        return self._fold((self._value(mels) - self.mean) / self.std)

    def decode(self, latents: Tensor) -> Tensor:
        values = self._unfold(latents).float() * self.std + self.mean
        if self.interpolation > 1:
            size = (values.shape[2], values.shape[3] * self.interpolation)
            values = F.interpolate(values, size=size, mode="bilinear", align_corners=False)
        # An untrained network asks for any level; squares of what no sound has would overflow.
        mels = self._mels(values).clamp(max=LOUDEST)
        return self._griffin_lim(self._magnitude(mels)).to(latents.dtype)

    def _value(self, mels: Tensor) -> Tensor:
        if self.power is not None:
            return mels**self.power
        return 1 - 2 * (20 * mels.clamp(min=10 ** (self.floor_db / 20)).log10()) / self.floor_db

    def _mels(self, value: Tensor) -> Tensor:
        if self.power is not None:
            return value.clamp(min=0) ** (1 / self.power)
        return 10 ** ((1 - value) * self.floor_db / 40)

    def _magnitude(self, mels: Tensor, steps: int = 50) -> Tensor:
        """Non-negative (b c bins n) whose mels come closest in least squares."""
        filters = self.filters.float()
        target = filters.T @ mels
        magnitude = target
        for _ in range(steps):
            magnitude = magnitude * target / (filters.T @ (filters @ magnitude)).clamp(min=1e-12)
        return magnitude

    def _first_phase(self, magnitude: Tensor) -> Tensor:
        """Unit complex numbers, shaped like `magnitude` or like one item of it."""
        if self.initial_phase == "peaks":
            angle = peak_phases(magnitude, n_fft=self.n_fft, hop=self.hop // self.interpolation)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            angle = 2 * math.pi * torch.rand(magnitude.shape[1:], generator=generator)
        return torch.polar(torch.ones_like(angle), angle).to(magnitude.device)

    def _griffin_lim(self, magnitude: Tensor) -> Tensor:
        phase, hop = self._first_phase(magnitude), self.hop // self.interpolation
        previous: Tensor | None = None
        for _ in range(self.iterations):
            rebuilt = self.stft(self.istft(magnitude * phase, hop), hop)
            step = rebuilt if previous is None else rebuilt + self.momentum * (rebuilt - previous)
            phase = step / step.abs().clamp(min=1e-12)
            previous = rebuilt
        return self.istft(magnitude * phase, hop)
