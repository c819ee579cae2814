"""Latents of a sample in a tar file, as a source of clips."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stable_audio.data.base import Rejected
from stable_audio.data.latent_sources import describe_json
from stable_audio.data.tars import Sample
from stable_audio.types import Metadata


class TarLatents:
    """The latents of one sample as a source of clips."""

    manifest: dict[str, Any] | None = None
    silence: Tensor | None = None
    problems: Sequence[Rejected] = ()

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self._array = self._load()

    def _load(self) -> np.ndarray:
        part = self.sample.parts["npy"]
        try:
            array = np.load(io.BytesIO(part.read()), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{part.name} is not an array that can be read ({error})") from error
        if array.ndim < 2:
            raise ValueError(f"latents have shape (channels, frames), found {array.shape}")
        return array

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return self.sample.name

    def size(self, index: int) -> int:
        return self.sample.parts["npy"].size

    def describe(self, index: int) -> tuple[int, int, Metadata]:
        return describe_json(self.sample.metadata(), self._array.shape[-1])

    def samples(self, index: int) -> int | None:
        return None

    def read(self, index: int, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.array(self._array[..., start:stop], dtype=np.float32))
