"""Sounds -> the mel spectrograms that the audio branch of CLAP reads (Wu et al. 2023, section 2.3).

The values are those of transformers' ClapFeatureExtractor, which computes them with numpy, clip by clip. It
and LAION-CLAP choose parts of long sounds at random; here the parts are fixed, so that a sound always gives
the same embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.nn.transfer import to_device

FLOOR = 1e-10
"""Smallest power, -100 dB."""

PUBLISHED = {"frequency_min": 50, "frequency_max": 14_000}
"""Settings of every published CLAP of LAION in which it differs from transformers' defaults."""


@dataclass(frozen=True)
class ClapFeatures:
    """Sounds (n,) at `sample_rate` -> log mel spectrograms (c frames mels), c = 4 with fusion, else 1.

    Attributes:
        filters: weights of the mel filters (bins, mels).
        sample_rate: sample rate in Hz of the sounds.
        samples: length that the network reads, in samples.
        window: length of the Hann window in samples.
        hop: samples between two frames.
        fusion: whether long sounds are a whole, shrunk spectrogram and three parts; otherwise one part.
    """

    filters: Tensor
    sample_rate: int
    samples: int
    window: int
    hop: int
    fusion: bool

    @classmethod
    def of(cls, extractor: Any, *, fusion: bool) -> ClapFeatures:
        """From transformers' extractor."""
        filters = extractor.mel_filters if fusion else extractor.mel_filters_slaney
        return cls(
            filters=torch.from_numpy(filters).float(),
            sample_rate=extractor.sampling_rate,
            samples=extractor.nb_max_samples,
            window=extractor.fft_window_size,
            hop=extractor.hop_length,
            fusion=fusion,
        )

    def __call__(self, sounds: Sequence[Tensor], device: torch.device | str) -> tuple[Tensor, Tensor]:
        """b sounds (n,) -> spectrograms (b c frames mels), and which ones are of long sounds (b 1)."""
        features = [self.spectrograms(to_device(sound, device)) for sound in sounds]
        longer = [[self.fusion and self._frames(len(sound)) > self._frames(self.samples)] for sound in sounds]
        return torch.stack(features), to_device(torch.tensor(longer), device)

    def spectrograms(self, sound: Tensor) -> Tensor:
        """One sound (n,) -> (c frames mels)."""
        if len(sound) <= self.samples:
            spectrogram = self.log_mel(self._filled(sound))
            return spectrogram.expand(4 if self.fusion else 1, -1, -1)
        if not self.fusion:
            start = (len(sound) - self.samples) // 2
            return self.log_mel(sound[start : start + self.samples])[None]
        return self._fused(self.log_mel(sound))

    def log_mel(self, sound: Tensor) -> Tensor:
        """(n,) -> (frames mels) in dB, 0 dB being a power of 1."""
        window = torch.hann_window(self.window, device=sound.device)
        spectrum = torch.stft(sound, self.window, self.hop, window=window, return_complex=True)
        power = spectrum.abs().square().T @ to_device(self.filters, sound.device)
        return 10 * power.clamp(min=FLOOR).log10()

    def _filled(self, sound: Tensor) -> Tensor:
        """Whole repetitions of the sound, then silence, to `samples`."""
        repeated = sound.repeat(max(1, self.samples // len(sound)))
        return F.pad(repeated, (0, self.samples - len(repeated)))

    def _fused(self, mel: Tensor) -> Tensor:
        """(frames mels) of a long sound -> itself, shrunk, and a part of its front, middle and back."""
        chunk = self._frames(self.samples)
        starts = len(mel) - chunk + 1
        if starts == 1:
            return mel.expand(4, -1, -1)
        shrunk = F.interpolate(
            mel[None, None], size=(chunk, mel.shape[1]), mode="bilinear", align_corners=False
        )
        thirds = [part.tolist() for part in torch.arange(starts).tensor_split(3)]
        middles = [part[len(part) // 2] if part else 0 for part in thirds]
        return torch.stack([shrunk[0, 0], *(mel[start : start + chunk] for start in middles)])

    def _frames(self, samples: int) -> int:
        return samples // self.hop + 1
