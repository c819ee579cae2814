"""Sources of random draws for samplers: any function with the signature `Noise`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stable_audio.diffusion.spaces import Level
from stable_audio.nn.transfer import to_device


class Noise(Protocol):
    """Unit-variance noise in the shape of `like`.

    `t_from` and `t_to` are the levels at both ends of the step. A source may use them to return increments of
    one Brownian path, scaled to unit variance, for any number of steps.
    """

    def __call__(self, like: Tensor, t_from: Level | None = None, t_to: Level | None = None) -> Tensor: ...


class SeededNoise:
    """Independent draws, one generator per item: an item's noise depends on its own seed alone.

    Drawn on the CPU, so that every device, batch size and order of the batch gives the same values.

    Args:
        seeds: one seed per item of the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]

    def __call__(self, like: Tensor, t_from: Level | None = None, t_to: Level | None = None) -> Tensor:
        if like.shape[0] != len(self._generators):
            raise ValueError(f"{len(self._generators)} seeds were given for a batch of {like.shape[0]}")
        draws = [torch.randn(like.shape[1:], generator=g) for g in self._generators]
        return to_device(torch.stack(draws), like.device, like.dtype)
