"""What never changes, computed once: the latents of clips, per run, and the features of texts, on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from stable_audio.data.base import Batch
from stable_audio.model import DiffusionModel
from stable_audio.nn.transfer import to_device
from stable_audio.training.errors import TrainingError


def cache_texts(model: DiffusionModel, folder: str) -> None:
    """Keep the features of texts in `folder`.

    Raises:
        TrainingError: no conditioner of the model reads texts with a frozen encoder.
    """
    conditioner = model.conditioner
    if conditioner is None or not conditioner.cache_texts(Path(folder).expanduser()):
        raise TrainingError(
            "$.training.cache_text: no conditioner of the model reads texts with a pretrained encoder "
            "that is frozen; remove it"
        )


class LatentCache:
    """Latents by item of the dataset, in the memory of the host."""

    def __init__(self) -> None:
        self._latents: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._latents)

    def __call__(self, batch: Batch, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents (b c n) of a batch.

        Args:
            batch: audio and the items that it holds.
            encode: audio of one clip (1 c n) -> its latents (1 c n).

        Raises:
            TrainingError: it is not known which items the batch holds.
        """
        if batch.items is None:
            raise TrainingError(
                "$.training.cache_latents: the loader does not say which clips a batch holds; remove it"
            )
        for position, item in enumerate(batch.items):
            if item not in self._latents:
                self._latents[item] = encode(batch.audio[position : position + 1])[0].cpu()
        return to_device(torch.stack([self._latents[item] for item in batch.items]), batch.audio.device)
