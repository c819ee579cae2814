"""Demos of autoencoder training: the original beside the reconstruction."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stable_audio.audio.plots import save_latents
from stable_audio.data.base import Batch
from stable_audio.pretransforms import Autoencoder
from stable_audio.pretransforms.losses import SISDRLoss, distance_for
from stable_audio.training.autoencoder.parts import encoder_input
from stable_audio.training.demo import Demo, DemoRenderer
from stable_audio.training.errors import TrainingError

log = logging.getLogger(__name__)


class AutoencoderDemos(DemoRenderer):
    """Reconstructs the first clips of the run at every demo step, with distances and a plot of the latents.

    Args:
        sample_rate: sample rate in Hz.
        count: number of clips.
        force_input_mono: average the channels and repeat the mean over the encoder's input channels.
    """

    def __init__(self, *, sample_rate: int, count: int = 8, force_input_mono: bool = False) -> None:
        self.sample_rate, self.count, self.force_input_mono = sample_rate, count, force_input_mono
        self.wanted_clips = count
        self._clips: list[Tensor] = []
        self._names: list[str] = []
        self._latents: list[tuple[str, Tensor]] = []

    def observe(self, batch: Batch) -> None:
        """Keep the first clips of the run."""
        missing = self.count - len(self._clips)
        for audio, metadata in zip(batch.audio[:missing], batch.metadata):
            self._clips.append(audio.detach().cpu().clone())
            self._names.append(str(metadata.get("relpath", metadata.get("path", f"clip {len(self._clips)}"))))

    def observed(self) -> Any:
        return self._clips, self._names

    def adopt(self, observed: Any) -> None:
        clips, names = observed
        self._clips, self._names = list(clips), list(names)

    def render(self, model: nn.Module) -> Iterator[Demo]:
        self._check(model)
        device = next(model.parameters()).device
        self._latents = []
        for i, (clip, name) in enumerate(zip(self._clips, self._names)):
            real = clip[None].to(device)
            encoder_audio = encoder_input(real, model, mono=self.force_input_mono)  # type: ignore[arg-type]
            latents = model.encode(encoder_audio, noise=torch.zeros_like)  # type: ignore[operator]
            self._latents.append((name, latents[0].flatten(1).float().cpu()))
            decoded = self._decode(model, latents, i).float()[..., : real.shape[-1]]
            row = f"{name} ({describe(real[..., : decoded.shape[-1]], decoded, latents)})"
            yield Demo(f"clip_{i:03d}_original", row, "original", clip)
            yield Demo(f"clip_{i:03d}_reconstruction", row, "reconstruction", decoded[0].cpu())

    def _check(self, model: nn.Module) -> None:
        if not isinstance(model, Autoencoder):
            raise TrainingError(f"reconstructions need an autoencoder, found {type(model).__name__}")

    def _decode(self, model: Any, latents: Tensor, index: int) -> Tensor:
        """Latents of clip `index` -> audio."""
        return model.decode(latents)

    def draw(self, folder: Path) -> list[str]:
        """Write the pictures of the demos last rendered; returns their names."""
        save_latents(folder / "latents.png", self._latents)
        return ["latents.png"]


def describe(real: Tensor, decoded: Tensor, latents: Tensor) -> str:
    """SI-SDR, STFT distance and the standard deviation of the latents, as text."""
    real = real.float()
    ratio = -SISDRLoss()(decoded, real)
    distance = distance_for(real.shape[-1]).to(real.device)(real, decoded)
    spread = latents.float().transpose(0, 1).flatten(1).std(1)
    return (
        f"SI-SDR {ratio.item():.1f} dB, STFT distance {distance.item():.2f}, latent std per channel "
        f"{spread.min().item():.2f} to {spread.max().item():.2f}"
    )
