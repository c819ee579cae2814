"""The content of a weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.adapters import Adapter
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.keys import (
    AUTOENCODER_PARTS,
    DIFFUSION_DECODER,
    OURS,
    starts,
)


@dataclass(frozen=True)
class StoredWeights:
    """The content of a weights file.

    Attributes:
        path: the file that holds the weights.
        kind: description of the file's kind, for messages.
        tensors: weights by the file's own names, training wrapper removed.
        weights: "ema" or "online": which of the two `tensors` holds.
        config: the embedded model config, or None.
        left_out: number of entries that only serve training (optimizer, counters, discriminators, ...).
        transforms: what was done to the model before these weights were trained, as records.
        base: the file that has all other weights of the model, None where `tensors` is whole.
        adapter: an adapter to add to the weights; with a passport that names its base where there is no
            `base`.
        adapted: the weights of that base, once they are read.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    weights: str = "online"
    config: dict[str, Any] | None = None
    left_out: int = 0
    info: dict[str, Any] = field(default_factory=dict)
    transforms: Sequence[Mapping[str, Any]] = ()
    base: BaseFile | None = None
    adapter: Adapter | None = None
    adapted: StoredWeights | None = None

    @property
    def is_autoencoder(self) -> bool:
        """True when the file holds an autoencoder and no diffusion model."""
        others = (OURS, "model.", DIFFUSION_DECODER)
        return starts(self.tensors, *AUTOENCODER_PARTS) and not starts(self.tensors, *others)
