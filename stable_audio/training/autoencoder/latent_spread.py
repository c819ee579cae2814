"""The spread of the latents of an autoencoder that is trained, which its files store as `latent_scale`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from stable_audio.pretransforms import Autoencoder
from stable_audio.pretransforms.bottlenecks.base import NoiseSource
from stable_audio.training.autoencoder.parts import encoder_input

MEASURED_BATCHES = 4
"""Number of latest batches on which the scale of the latents is measured."""


class RecentSound:
    """The sound of the latest batches.

    Args:
        batches: audio (b c n) of earlier ones.
    """

    def __init__(self, batches: Iterable[Tensor] = ()) -> None:
        self._batches = deque(batches, maxlen=MEASURED_BATCHES)

    def add(self, audio: Tensor) -> None:
        """Add a batch (b c n); the earliest one goes."""
        self._batches.append(audio)

    def batches(self) -> list[Tensor]:
        """Audio (b c n), the earliest first."""
        return list(self._batches)

    def spread(self, model: Autoencoder, *, noise: NoiseSource, mono: bool) -> float | None:
        """Standard deviation of all their latents; None if it is 0 or not finite.

        Args:
            mono: as for `encoder_input`.
        """
        like = next(model.parameters())
        inputs = [encoder_input(a.to(like.device, like.dtype), model, mono=mono) for a in self._batches]
        latents = [model.encode(a, noise=noise).float() for a in inputs]
        spread = float(torch.cat([x.flatten() for x in latents]).std())
        return spread if 0 < spread < float("inf") else None
