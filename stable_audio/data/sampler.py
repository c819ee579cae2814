"""Which items make up which batch: a pure function of (seed, epoch, batch), so that it can be resumed.

The order is made of global batches (batch_size x world_size items). Rank r takes the r-th part of each,
so two processes with batches of 2 see together what one process with batches of 4 sees.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stable_audio.data.base import DataError, ItemKey
from stable_audio.data.seeding import derive_seed


class ResumableSampler:
    """Batches of ItemKeys for one rank; its state is the number of batches consumed.

    Args:
        num_items: length of the dataset.
        batch_size: items per batch and rank.
        seed: the same on every rank.
        shuffle: a new order each epoch; False keeps the order of the dataset.
        weights: relative weight per item; items are then drawn with replacement, num_items per epoch.
        buckets: bucket per item; a global batch holds items of one bucket only.
        drop_last: leave out batches that are not full. Otherwise ranks share a short batch evenly, and
            where it does not divide, items repeat so that no rank is without work.

        epoch_batches: batches per epoch; items are then drawn with replacement.

    Raises:
        DataError: no items, or not one full batch.
    """

    def __init__(
        self,
        num_items: int,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        weights: Sequence[float] | None = None,
        buckets: Sequence[int] | None = None,
        drop_last: bool = True,
        epoch_batches: int | None = None,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size must be at least 1 and rank below world_size; "
                f"found batch_size {batch_size}, rank {rank}, world_size {world_size}"
            )
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self._draws = None if epoch_batches is None else epoch_batches * batch_size * world_size
        self._probabilities = None if weights is None else _probabilities(weights, num_items)
        self._buckets = None if buckets is None else np.asarray(buckets)
        self._cached: tuple[int, np.ndarray, np.ndarray] | None = None
        self.epoch = 0
        self.batch = 0
        self.batches_per_epoch()

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    def batches_per_epoch(self, epoch: int | None = None) -> int:
        """Batches in `epoch` (default: the current one); it varies only with weights and buckets."""
        count = len(self._plan(self.epoch if epoch is None else epoch)[1]) - 1
        if count == 0:
            raise DataError(
                f"{self.num_items} items do not fill one batch of {self.global_batch_size} "
                f"({self.batch_size} x {self.world_size} processes): lower the batch size or set "
                f"drop_last to false"
            )
        return count

    def keys(self, epoch: int, batch: int) -> list[ItemKey]:
        """This rank's items of one global batch."""
        order, starts = self._plan(epoch)
        begin, size = int(starts[batch]), int(starts[batch + 1] - starts[batch])
        share = -(-size // self.world_size)
        positions = [begin + i % size for i in range(self.rank * share, (self.rank + 1) * share)]
        return [ItemKey(int(order[p]), derive_seed(self.seed, epoch, p)) for p in positions]

    def walk(self, *, endless: bool = False) -> Iterator[tuple[list[ItemKey], dict[str, int]]]:
        """(keys, state after that batch) from the current state to the end of the epoch, or forever."""
        epoch, batch = self.epoch, self.batch
        while True:
            count = self.batches_per_epoch(epoch)
            for b in range(batch, count):
                last = b + 1 == count
                yield self.keys(epoch, b), self._state(epoch + last, 0 if last else b + 1)
            if not endless:
                return
            epoch, batch = epoch + 1, 0

    def __iter__(self) -> Iterator[list[ItemKey]]:
        """The rest of the current epoch; the state is left as it is."""
        return (keys for keys, _ in self.walk())

    def __len__(self) -> int:
        return self.batches_per_epoch() - self.batch

    def state_dict(self) -> dict[str, int]:
        return self._state(self.epoch, self.batch)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a stored position; with another global batch size, to the nearest earlier item."""
        self.epoch = int(state["epoch"])
        items = int(state["batch"]) * int(state["global_batch_size"])
        self.batch = min(items // self.global_batch_size, self.batches_per_epoch() - 1)

    def _state(self, epoch: int, batch: int) -> dict[str, int]:
        return {"epoch": epoch, "batch": batch, "global_batch_size": self.global_batch_size}

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Item order of an epoch and where its global batches start (one more entry: the end)."""
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, *self._make_plan(epoch))
        return self._cached[1], self._cached[2]

    def _make_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self.num_items == 0:
            raise DataError("the dataset is empty")
        random = np.random.Generator(np.random.PCG64(derive_seed("order", self.seed, epoch)))
        order = self._order(random)
        if self._buckets is None:
            return order, self._starts(len(order))
        return self._bucketed(order, random)

    def _order(self, random: np.random.Generator) -> np.ndarray:
        if self._probabilities is not None:
            cumulative = np.cumsum(self._probabilities)
            draws = random.random(self._draws or self.num_items)
            return np.minimum(np.searchsorted(cumulative, draws, side="right"), self.num_items - 1)
        if self._draws is not None:
            return random.integers(self.num_items, size=self._draws)
        return random.permutation(self.num_items) if self.shuffle else np.arange(self.num_items)

    def _starts(self, length: int) -> np.ndarray:
        size = self.global_batch_size
        starts = np.arange(0, length - length % size + 1, size)
        complete = self.drop_last or length % size == 0
        return starts if complete else np.append(starts, length)

    def _bucketed(self, order: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Regroup the order by bucket, cut each bucket into batches, shuffle the batches."""
        assert self._buckets is not None
        batches: list[np.ndarray] = []
        of_item = self._buckets[order]
        for bucket in np.unique(of_item):
            members = order[of_item == bucket]
            starts = self._starts(len(members))
            batches += [members[a:b] for a, b in itertools.pairwise(starts)]
        if self.shuffle:
            batches = [batches[i] for i in random.permutation(len(batches))]
        sizes = [len(b) for b in batches]
        joined = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
        return joined, np.cumsum([0, *sizes])


def _probabilities(weights: Sequence[float], num_items: int) -> np.ndarray:
    values = np.asarray(weights, dtype=np.float64)
    if (
        values.shape != (num_items,)
        or not np.isfinite(values).all()
        or (values < 0).any()
        or not values.any()
    ):
        raise ValueError(
            f"weights must be {num_items} finite numbers >= 0, not all zero; "
            f"found {values.size} between {values.min(initial=0)} and {values.max(initial=0)}"
        )
    return values / values.sum()
