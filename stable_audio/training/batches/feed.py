"""Batches of a run: a loader that is built once rank and world size are known, timed, and resumable."""

from __future__ import annotations

import copy
import hashlib
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from stable_audio.adapters import TrainingClips
from stable_audio.data.base import Batch
from stable_audio.data.collate import collate
from stable_audio.data.loader import ResumableLoader
from stable_audio.training.speed.clock import StepClock

MakeLoader = Callable[[int, int], ResumableLoader]
"""(rank, world_size) -> an endless loader of this rank's batches."""


class TimedLoader:
    """Yields the batches of a loader and adds up the time that training waited for them.

    It has no length, since a run is counted in steps, not in epochs of the dataset.

    Args:
        clock: times the parts of steps, of which waiting is one.

    Attributes:
        waited: seconds.
        latest: the batch that was handed out last. Lightning asks for one more than it trains on.
    """

    def __init__(self, loader: ResumableLoader, clock: StepClock) -> None:
        self.loader, self.clock = loader, clock
        self.waited = 0.0
        self.latest: Batch | None = None

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        while True:
            began = time.perf_counter()
            try:
                with self.clock.part("data"):
                    batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - began
            self.latest = batch
            yield batch


class RunData(pl.LightningDataModule):
    """The training data of a run.

    Args:
        make_loader: builds the loader of a rank.
        clock: times the parts of steps; default: one that times nothing.
    """

    def __init__(self, make_loader: MakeLoader, clock: StepClock | None = None) -> None:
        super().__init__()
        self._make_loader = make_loader
        self._clock = clock if clock is not None else StepClock()
        self._state: Mapping[str, Any] | None = None
        self.timed: TimedLoader | None = None

    def train_dataloader(self) -> TimedLoader:
        assert self.trainer is not None
        loader = self._make_loader(self.trainer.global_rank, self.trainer.world_size)
        if self._state is not None:
            loader.load_state_dict(dict(self._state))
        self.timed = TimedLoader(loader, self._clock)
        return self.timed

    @property
    def waited(self) -> float:
        """Seconds that training has waited for data."""
        return self.timed.waited if self.timed is not None else 0.0

    @property
    def upcoming(self) -> Batch | None:
        """During a step, the batch of the next one."""
        return self.timed.latest if self.timed is not None else None

    def clips(self) -> TrainingClips:
        """The clips that the run trains on, once the loader is built."""
        assert self.timed is not None
        dataset = self.timed.loader.dataset
        described = sorted(dataset.item_names()) or [type(dataset).__name__, str(len(dataset))]
        return TrainingClips(hash=digest_of(described), clips=len(dataset))

    def sizes_digest(self) -> str | None:
        """SHA-256 of the sizes of the clips in the order of their names; None where they are not known."""
        assert self.timed is not None
        dataset = self.timed.loader.dataset
        names, sizes = dataset.item_names(), dataset.item_sizes()
        if not names or len(names) != len(sizes):
            return None
        ordered = array("q", map(sizes.__getitem__, sorted(range(len(names)), key=names.__getitem__)))
        if sys.byteorder == "big":  # the same on all machines
            ordered.byteswap()
        return hashlib.sha256(ordered).hexdigest()

    def first_clips(self) -> Iterator[Batch]:
        """The clips that the run began with, one per batch, on every process and however often it has been
        started since. They are read in this process; the position of its loader stays."""
        assert self.timed is not None
        loader = self.timed.loader
        sampler = copy.copy(loader.sampler)
        for batch in range(sampler.batches_per_epoch(0)):
            for rank in range(sampler.world_size):
                sampler.rank = rank
                for key in sampler.keys(0, batch):
                    clip = collate([loader.dataset[key]], loader.check, loader.prepare).batch
                    if clip is not None:
                        yield clip

    def position(self, batches: int) -> dict[str, Any]:
        """The loader's state after `batches` batches of the run; its workers may be ahead of them."""
        assert self.timed is not None
        return self.timed.loader.state_after(batches)

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Start at a stored position. Call it before the loader is built."""
        self._state = state


AT_ONCE = 10_000
"""Names that are joined at once."""


def digest_of(names: Sequence[str]) -> str:
    """SHA-256 of names, one on a line, without a second copy of all of them."""
    digest = hashlib.sha256()
    for begin in range(0, len(names), AT_ONCE):
        lines = "\n".join(names[begin : begin + AT_ONCE])
        digest.update((lines if begin == 0 else f"\n{lines}").encode(errors="surrogateescape"))
    return digest.hexdigest()
