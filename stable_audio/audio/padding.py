"""Padding masks stored as two numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass  # not frozen: Lightning copies the dataclasses of a batch where it turns it into bfloat16
class PaddingMask:
    """A mask of `real` samples or frames of sound, followed by padding.

    It replaces a tensor (length,) of ones and zeros, half as large as stereo audio, which worker processes
    would have to create and send for every clip, although few models use it.

    Attributes:
        real: samples or frames of sound.
        length: samples or frames in all.
    """

    real: int
    length: int

    def __post_init__(self) -> None:
        if not 0 <= self.real <= self.length:
            raise ValueError(f"{self.real} of {self.length} samples cannot be sound")

    def __len__(self) -> int:
        return self.length

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.length])

    def tensor(self) -> Tensor:
        """(length,) float32: 1 where there is sound, 0 in the padding."""
        return (torch.arange(self.length) < self.real).float()

    def tolist(self) -> list[float]:
        """The same as a list."""
        return self.tensor().tolist()

    def sum(self) -> int:
        """Samples of sound."""
        return self.real

    def at(self, positions: Tensor) -> Tensor:
        """Whether there is sound at each of `positions` (bool)."""
        return positions < self.real

    def lengthened(self, more: int) -> PaddingMask:
        """The same mask with `more` samples of padding at the end."""
        return PaddingMask(self.real, self.length + more)
