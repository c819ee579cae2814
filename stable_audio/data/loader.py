"""Batches from a dataset, with a position that can be stored and restored in the middle of an epoch."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from stable_audio.data.base import Batch, ClipDataset, DataError, ItemCheck, ItemKey, Preparation
from stable_audio.data.collate import Collated, collate, collate_packed
from stable_audio.data.report import DataReport
from stable_audio.data.sampler import ResumableSampler, Share
from stable_audio.data.worker_deaths import MOST_DEATHS, WorkerDied, batches_of
from stable_audio.data.workers import answer_signals
from stable_audio.incidents import incident
from stable_audio.options import Flat, takes_keywords

_LOG = logging.getLogger(__name__)

_REMEMBERED_STATES = 1024


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Options of drawing batches from a dataset.

    Attributes:
        batch_size: items of a batch on each rank.
        num_workers: processes that read ahead; 0 reads in this one.
        seed: seed of the order and of all crops.
        rank: number of this process among those that share the dataset.
        world_size: how many processes share it.
        shuffle: draw in random order, by the dataset's weights.
        pin_memory: put batches where a GPU copies them from while it computes.
        endless: continue with the next epoch without a break; otherwise one pass per iteration.
        repeat: repeat epoch 0 in every pass, with the same order and crops (validation).
    """

    batch_size: int
    num_workers: int = 0
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    pin_memory: bool = False
    endless: bool = True
    repeat: bool = False


class ResumableLoader:
    """Iterates over batches and counts those handed out, whatever the workers have prefetched.

    Args:
        loading: the workers, and when a pass ends; the sampler has the rest of it.
        check: rejects clips by their metadata, in addition to those that the dataset rejects.
        prepare: changes the metadata of the clips of a batch, in the worker.

    Each iteration starts at the current state. A batch whose items were all rejected is skipped and
    counts as consumed. `state_dict()` describes the batches handed out so far; a consumer that
    prefetches calls `state_after(n)` for the state after the n-th batch it really used.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        sampler: ResumableSampler,
        loading: Loading,
        *,
        report: DataReport | None = None,
        check: ItemCheck | None = None,
        prepare: Preparation | None = None,
    ) -> None:
        if loading.endless and loading.repeat:
            raise ValueError("a loader is either endless or repeats one pass, not both")
        self.dataset, self.sampler = dataset, sampler
        self.num_workers, self.pin_memory = loading.num_workers, loading.pin_memory
        self.endless, self.repeat, self.check = loading.endless, loading.repeat, check
        self.prepare = prepare
        self.report = report if report is not None else DataReport()
        self.report.add(0, dataset.problems)
        self.handed_out = 0
        self._states: deque[tuple[int, dict[str, int]]] = deque(maxlen=_REMEMBERED_STATES)
        self._remember(sampler.state_dict())

    @property
    def batch_size(self) -> int:
        return self.sampler.batch_size

    @property
    def batches_per_epoch(self) -> int:
        return self.sampler.batches_per_epoch()

    def __len__(self) -> int:
        if self.endless:
            raise TypeError("an endless loader has no length; see batches_per_epoch")
        return self.batches_per_epoch if self.repeat else len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self.repeat:
            self.sampler.epoch = self.sampler.batch = 0
        plans: deque[_BatchPlan] = deque()
        epoch, epoch_report = self.sampler.epoch, DataReport(max_logged=0)
        whole_pass = self.sampler.batch == 0
        for batch, rejected, places in self._prepared(plans):
            plan = plans.popleft()
            self.sampler.load_state_dict(plan.after)
            accepted = len(batch.metadata) if batch is not None else 0
            self.report.add(accepted, rejected)
            epoch_report.add(accepted, rejected)
            if batch is not None:
                self.handed_out += 1
                self._remember(self.sampler.state_dict())
                yield _placed(batch, plan, places)
            if self.sampler.epoch != epoch:
                # With several processes, one of them may have an empty pass.
                alone = self.sampler.world_size == 1 or self.endless
                if whole_pass and not epoch_report.accepted and alone:
                    raise DataError(
                        f"not one usable item in a whole pass over the dataset: {epoch_report.summary()}"
                    )
                epoch, epoch_report, whole_pass = self.sampler.epoch, DataReport(max_logged=0), True

    def _prepared(self, plans: deque[_BatchPlan]) -> Iterator[Collated]:
        """Batches from the current state on. Workers that were killed are replaced: the state is that after
        the last batch that has come, from which new ones prepare the same batches."""
        deaths, epoch = 0, self.sampler.epoch
        while self.endless or self.sampler.epoch == epoch:
            try:
                for collated in batches_of(self._workers(plans)):
                    yield collated
                    deaths = 0
                return
            except WorkerDied as error:
                deaths += 1
                if deaths > MOST_DEATHS:
                    raise DataError(
                        f"data workers died {deaths} times without a batch in between ({error}); fewer "
                        "--num-workers, or shorter clips, need less memory, and --num-workers 0 shows an "
                        "error of the data itself"
                    ) from error
                _LOG.error(
                    "a data worker was killed, as by the system when memory runs out (%s); workers are "
                    "started again, with the same batches",
                    error,
                    extra=incident("data worker died"),
                )
                plans.clear()

    def _workers(self, plans: deque[_BatchPlan]) -> DataLoader:
        packed = self.sampler.row_length is not None

        def plan() -> Iterator[list[ItemKey]]:
            state = self.sampler.state_dict()
            for keys, after in self.sampler.walk(endless=self.endless):
                share = self.sampler.share(state["epoch"], state["batch"]) if packed else None
                plans.append(_BatchPlan(after, [key.index for key in keys], share))
                state = after
                yield keys

        # The generator runs in this process, ahead of the workers; `plans` holds the batches in between.
        return DataLoader(
            self.dataset,
            batch_sampler=plan(),  # type: ignore[arg-type]
            collate_fn=functools.partial(
                collate_packed if packed else collate, check=self.check, prepare=self.prepare
            ),
            num_workers=self.num_workers,
            worker_init_fn=answer_signals,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # otherwise every pass draws from the global generator
        )

    def _remember(self, state: dict[str, int]) -> None:
        self._states.append((self.handed_out, state))

    def state_dict(self) -> dict[str, Any]:
        return self.state_after(self.handed_out)

    def state_after(self, batches: int) -> dict[str, Any]:
        """State after the `batches`-th batch that this loader (and those it resumed) handed out.

        Raises:
            ValueError: that batch is too far back, or has not been handed out.
        """
        for count, state in reversed(self._states):
            if count == batches:
                return {**state, "handed_out": batches}
        raise ValueError(f"the state after batch {batches} is not known; {self.handed_out} were handed out")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)
        self.handed_out = int(state["handed_out"])
        self._states.clear()
        self._remember(self.sampler.state_dict())


class _BatchPlan(NamedTuple):
    """A batch that the workers prepare.

    Attributes:
        after: the sampler's state after the batch.
        items: indices of the requested items.
        share: this rank's share of the global batch, where clips share rows.
    """

    after: dict[str, int]
    items: list[int]
    share: Share | None


def _placed(batch: Batch, plan: _BatchPlan, places: Sequence[int]) -> Batch:
    batch = batch._replace(items=[plan.items[place] for place in places])
    if batch.packed is None or plan.share is None:
        return batch
    first, total = plan.share
    return batch._replace(packed=batch.packed._replace(first=first, total=total))


@takes_keywords
def make_loader(
    dataset: ClipDataset,
    *,
    loading: Flat[Loading],
    drop_last: bool = True,
    check: ItemCheck | None = None,
    prepare: Preparation | None = None,
) -> ResumableLoader:
    """A loader for this rank with the dataset's weights, buckets and rows. See ResumableLoader.

    Args:
        loading: the drawing of batches; its fields are keywords as well.
        drop_last: leave out batches that are not full.
    """
    sampler = ResumableSampler(
        len(dataset),
        batch_size=loading.batch_size,
        seed=loading.seed,
        rank=loading.rank,
        world_size=loading.world_size,
        shuffle=loading.shuffle,
        drop_last=drop_last,
        weights=dataset.weights if loading.shuffle else None,
        buckets=dataset.buckets,
        epoch_batches=dataset.epoch_batches if loading.shuffle else None,
        lengths=dataset.lengths,
        row_length=dataset.row_length,
    )
    return ResumableLoader(dataset, sampler, loading, check=check, prepare=prepare)
