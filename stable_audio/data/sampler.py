"""Choose the items of each batch as a pure function of (seed, epoch, batch), so that it can be resumed.

The order is made of global batches (batch_size x world_size items). Rank r takes the r-th part of each,
so two processes with batches of 2 see together what one process with batches of 4 sees. Where several
clips share a row, batches are made of rows instead of items.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from stable_audio.data.base import DataError, ItemKey
from stable_audio.data.packing import flatten_rows, pack_rows
from stable_audio.data.seeding import derive_seed
from stable_audio.wording import plural

_LOG = logging.getLogger(__name__)


class Share(NamedTuple):
    """The share of a global batch that belongs to one rank.

    Attributes:
        first: number of items on lower ranks.
        total: number of items in the whole batch.
    """

    first: int
    total: int


class _Plan(NamedTuple):
    """The order of one epoch.

    Attributes:
        order: the items in order.
        units: where each unit (an item or a row) starts in `order`, plus the end.
        batches: where each batch starts in `units`, plus the end.
    """

    order: np.ndarray
    units: np.ndarray
    batches: np.ndarray


class ResumableSampler:
    """Batches of ItemKeys for one rank; its state is the number of batches consumed.

    Args:
        num_items: length of the dataset.
        batch_size: items per batch and rank.
        seed: the same on every rank.
        shuffle: a new order each epoch; False keeps the order of the dataset.
        weights: relative weight per item; items are then drawn with replacement, num_items per epoch.
        buckets: bucket per item; a global batch holds items of one bucket only.
        drop_last: leave out batches that are not full. If none is full, the items repeat until one is,
            each time with another seed; without shuffling the short batch stays. Ranks share a short batch
            evenly; if it does not divide, items repeat so that every rank has work.
        epoch_batches: batches per epoch; items are then drawn with replacement.
        lengths: frames of each item, where items share rows; batch_size then counts rows. Excludes buckets
            and epoch_batches.
        row_length: frames of a row.

    Raises:
        DataError: no items.
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
        lengths: Sequence[int] | None = None,
        row_length: int | None = None,
    ) -> None:
        if row_length is not None and (lengths is None or buckets is not None or epoch_batches is not None):
            raise ValueError("row_length needs lengths, and excludes buckets and epoch_batches")
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
        self._lengths = None if lengths is None else np.asarray(lengths)
        self.row_length = row_length
        self._cached: dict[int, _Plan] = {}
        self.epoch = 0
        self.batch = 0
        self._log_leftovers()

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world_size

    def batches_per_epoch(self, epoch: int | None = None) -> int:
        """Batches in `epoch` (default: the current one); it varies only with weights, buckets and rows."""
        return len(self._plan(self.epoch if epoch is None else epoch).batches) - 1

    def _log_leftovers(self) -> None:
        """Log, once per run, how many items the first epoch repeats or omits for not filling a batch."""
        distinct = np.unique(self._plan(0).order)
        if self.rank != 0 or not self.shuffle:
            return
        if not self.drop_last:
            self._log_shared()
            return
        batch = (
            f"a batch of {self.global_batch_size} ({self.batch_size} x {plural(self.world_size, 'process')})"
        )
        if len(self._plan(0).order) > self.num_items and self._draws is None and self._probabilities is None:
            rows = "" if self.row_length is None else f" in rows of {self.row_length} frames"
            items = f"{plural(len(distinct), 'item')}{rows}"
            _LOG.warning("%s cannot fill %s: all are repeated until it is full", items, batch)
        if self._buckets is not None and self._draws is None and self._probabilities is None:
            sizes = np.bincount(self._buckets)
            small = int(sizes[sizes < self.global_batch_size].sum())
            if small and not self._too_few(sizes):
                _LOG.warning(
                    "%d of %s cannot be used, in buckets that do not fill %s; lower the batch "
                    "size, set drop_last to false, or give fewer bucket_lengths",
                    small,
                    plural(self.num_items, "item"),
                    batch,
                )

    def _log_shared(self) -> None:
        """Log how often an epoch has a batch that the ranks cannot share evenly."""
        sizes = np.diff(self._plan(0).batches)
        repeated = int((-sizes % self.world_size).sum())
        if repeated:
            _LOG.info(
                "%d of %s per epoch cannot be shared evenly by %s: %s twice there, unlike in one process",
                int((sizes % self.world_size > 0).sum()),
                plural(len(sizes), "batch"),
                plural(self.world_size, "process"),
                plural(repeated, "item" if self.row_length is None else "row", "count"),
            )

    def keys(self, epoch: int, batch: int) -> list[ItemKey]:
        """This rank's items of one global batch."""
        order, places = self._plan(epoch).order, self._places(epoch, batch, self.rank)
        return [ItemKey(int(order[p]), derive_seed(self.seed, epoch, p)) for p in places]

    def share(self, epoch: int, batch: int) -> Share:
        """This rank's share of one global batch; with rows, the number of items differs between ranks."""
        counts = [len(self._places(epoch, batch, rank)) for rank in range(self.world_size)]
        return Share(sum(counts[: self.rank]), sum(counts))

    def _places(self, epoch: int, batch: int, rank: int) -> list[int]:
        """Positions of a rank's items in the order of the epoch."""
        _, units, batches = self._plan(epoch)
        begin, size = int(batches[batch]), int(batches[batch + 1] - batches[batch])
        share = -(-size // self.world_size)
        units_of_rank = [begin + i % size for i in range(rank * share, (rank + 1) * share)]
        return [p for unit in units_of_rank for p in range(int(units[unit]), int(units[unit + 1]))]

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
        """The rest of the current epoch; does not change the state."""
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

    def _plan(self, epoch: int) -> _Plan:
        # Two epochs are kept: workers read ahead into the next one.
        if epoch not in self._cached:
            newest = {e: plan for e, plan in self._cached.items() if abs(e - epoch) == 1}
            self._cached = {**newest, epoch: self._make_plan(epoch)}
        return self._cached[epoch]

    def _make_plan(self, epoch: int) -> _Plan:
        if self.num_items == 0:
            raise DataError("the dataset is empty")
        random = np.random.Generator(np.random.PCG64(derive_seed("order", self.seed, epoch)))
        order = self._order(random)
        if self.row_length is not None:
            return self._packed(order, random)
        if self._buckets is not None:
            order, batches = self._bucketed(order, random)
        else:
            too_few = self._too_few([len(order)])
            order = self._fill_batch(order, too_few)
            batches = self._starts(len(order), too_few)
        return _Plan(order, np.arange(len(order) + 1), batches)

    def _order(self, random: np.random.Generator) -> np.ndarray:
        if self._probabilities is not None:
            cumulative = np.cumsum(self._probabilities)
            count = max(self.num_items, self.global_batch_size if self.drop_last else 0)
            draws = random.random(self._draws or count)
            return np.minimum(np.searchsorted(cumulative, draws, side="right"), self.num_items - 1)
        if self._draws is not None:
            return random.integers(self.num_items, size=self._draws)
        return random.permutation(self.num_items) if self.shuffle else np.arange(self.num_items)

    def _too_few(self, counts: Sequence[int] | np.ndarray) -> bool:
        """Whether dropping short batches would leave no batch; `counts` are items per bucket."""
        return self.drop_last and max(counts) < self.global_batch_size

    def _fill_batch(self, members: np.ndarray, too_few: bool) -> np.ndarray:
        return np.resize(members, self.global_batch_size) if too_few and self.shuffle else members

    def _starts(self, length: int, too_few: bool = False) -> np.ndarray:
        size = self.global_batch_size
        starts = np.arange(0, length - length % size + 1, size)
        complete = (self.drop_last and not too_few) or length % size == 0
        return starts if complete else np.append(starts, length)

    def _packed(self, order: np.ndarray, random: np.random.Generator) -> _Plan:
        """Fill rows in the given order, then shuffle them: rows that fill up early hold long clips."""
        assert self._lengths is not None
        assert self.row_length is not None
        rows = pack_rows(self._lengths[order].tolist(), self.row_length)
        if self.shuffle:
            rows = [rows[i] for i in random.permutation(len(rows))]
        too_few = self._too_few([len(rows)])
        if too_few and self.shuffle:
            rows = list(itertools.islice(itertools.cycle(rows), self.global_batch_size))
        places, units = flatten_rows(rows)
        return _Plan(order[places], units, self._starts(len(rows), too_few))

    def _bucketed(self, order: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Regroup the order by bucket, cut each bucket into batches, shuffle the batches."""
        assert self._buckets is not None
        batches: list[np.ndarray] = []
        item_buckets = self._buckets[order]
        buckets, sizes = np.unique(item_buckets, return_counts=True)
        too_few = self._too_few(sizes)
        for bucket in buckets:
            members = self._fill_batch(order[item_buckets == bucket], too_few)
            starts = self._starts(len(members), too_few)
            batches += [members[a:b] for a, b in itertools.pairwise(starts)]
        if self.shuffle:
            batches = [batches[i] for i in random.permutation(len(batches))]
        lengths = [len(b) for b in batches]
        order_by_batch = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
        return order_by_batch, np.cumsum([0, *lengths])


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
