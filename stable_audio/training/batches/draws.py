"""All randomness of a training step, from (seed, position, place in the global batch) alone.

Nothing depends on the number of processes, on earlier draws, or on demos in between: two processes with
batches of 2 draw what one process draws for a batch of 4, and a resumed run continues with the draws of the
uninterrupted run.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from stable_audio.data.base import Packed
from stable_audio.data.seeding import derive_seed
from stable_audio.diffusion.timesteps import Timesteps


class Draws(Protocol):
    """The random draws of a training step; tests replace them by stored values."""

    def timesteps(self, n: int, length: int | Sequence[int]) -> Tensor:
        """(n,) in [0, 1], for latents of `length` frames, or of so many frames each."""

    def noise(self, like: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Standard normal, in the shape of `like` (b c n); zero behind the first lengths[i] frames."""

    def encoder_noise(self, like: Tensor) -> Tensor:
        """Standard normal for the sampling of latents; may be called for parts of the batch in order."""

    def bottleneck_noise(self, like: Tensor) -> Tensor:
        """Standard normal for the bottleneck of an autoencoder in training; every call differs."""

    def bernoulli(self, n: int, prob: float) -> Tensor:
        """(n,) bool, True with probability `prob`."""

    def uniform(self, n: int) -> Tensor:
        """(n,) in [0, 1); every call differs."""

    def exponential(self, n: int) -> list[float]:
        """n draws from an exponential distribution of mean 1."""

    def coin(self, prob: float) -> bool:
        """One decision for the whole global batch."""

    def item_random(self, item: int) -> random.Random:
        """A generator for the discrete choices of one item."""


class StepDraws:
    """The draws of one batch.

    Args:
        timesteps: the run's stream of t; it advances with every batch.
        seed: seed of the run.
        position: batches consumed before this one.
        rank: number of this process.
        world_size: number of processes.
        batch_size: items per batch and process.
        packed: of a batch whose clips share rows; its place comes from there.
        items: numbers of the clips in their dataset, whose noise then follows them through all batches.
    """

    def __init__(
        self,
        *,
        timesteps: Timesteps,
        seed: int,
        position: int,
        rank: int,
        world_size: int,
        batch_size: int,
        packed: Packed | None = None,
        items: Sequence[int] | None = None,
    ) -> None:
        self._timesteps = timesteps
        self._seed, self._position = seed, position
        self._packed, self._items = packed, items
        self._first = rank * batch_size if packed is None else packed.first
        self._batch_size = batch_size
        self._global = world_size * batch_size if packed is None else packed.total
        self._encoded = 0
        self._bottleneck_calls = 0
        self._decisions = 0
        self._uniform_calls = 0

    def timesteps(self, n: int, length: int | Sequence[int]) -> Tensor:
        if self._packed is not None:
            mine = slice(self._first, self._first + n)
            return self._timesteps.part(max(self._global, mine.stop), mine, length=length)
        # A batch that lost items still draws its full share, so that the stream is the same in all processes.
        drawn = max(n, self._batch_size)
        if not isinstance(length, int):
            length = [*length, *[1] * (drawn - n)]
        return self._timesteps(drawn, length=length)[:n]

    def noise(self, like: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        return self._normal("noise", like, 0, lengths)

    def encoder_noise(self, like: Tensor) -> Tensor:
        first, self._encoded = self._encoded, self._encoded + like.shape[0]
        return self._normal("encoder", like, first)

    def bottleneck_noise(self, like: Tensor) -> Tensor:
        self._bottleneck_calls += 1
        return self._normal(f"bottleneck {self._bottleneck_calls}", like, 0)

    def bernoulli(self, n: int, prob: float) -> Tensor:
        self._decisions += 1
        generator = torch.Generator().manual_seed(self._key("bernoulli", self._decisions))
        draws = torch.rand(max(self._global, self._first + n), generator=generator)
        return draws[self._first : self._first + n] < prob

    def uniform(self, n: int) -> Tensor:
        self._uniform_calls += 1
        purpose = f"uniform {self._uniform_calls}"
        draws = [random.Random(self._key(purpose, self._place(i))).random() for i in range(n)]
        return torch.tensor(draws, dtype=torch.float64).float().clamp(max=1 - 2**-24)

    def exponential(self, n: int) -> list[float]:
        return [random.Random(self._key("exponential", self._place(i))).expovariate(1.0) for i in range(n)]

    def coin(self, prob: float) -> bool:
        self._decisions += 1
        return random.Random(self._key("coin", self._decisions)).random() < prob

    def item_random(self, item: int) -> random.Random:
        return random.Random(self._key("item", self._first + item))

    def _normal(self, purpose: str, like: Tensor, first: int, lengths: Sequence[int] | None = None) -> Tensor:
        noise = torch.empty_like(like) if lengths is None else torch.zeros_like(like)
        generator = torch.Generator(like.device)
        for i in range(like.shape[0]):
            generator.manual_seed(self._key(purpose, self._place(first + i)))
            if lengths is None:
                noise[i].normal_(generator=generator)
            else:  # not in a view, whose layout would depend on the other clips
                clip_noise = like.new_empty(*like.shape[1:-1], lengths[i])
                noise[i, ..., : lengths[i]] = clip_noise.normal_(generator=generator)
        return noise

    def _place(self, index: int) -> int:
        """What the draws of an item depend on: its number, or else its place in the global batch."""
        return self._first + index if self._items is None else self._items[index]

    def _key(self, purpose: str, number: int) -> int:
        return derive_seed(purpose, self._seed, self._position, number)
