"""Batches for a run: built when rank and world size are known, timed, resumable at a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl

from stable_audio.data.base import Batch
from stable_audio.data.loader import ResumableLoader

MakeLoader = Callable[[int, int], ResumableLoader]
"""(rank, world_size) -> an endless loader of this rank's batches."""


class TimedLoader:
    """Hands batches on and adds up the time that training waited for them.

    It has no length on purpose: the run ends by steps, and an epoch of the dataset means nothing to it.
    """

    def __init__(self, loader: ResumableLoader) -> None:
        self.loader = loader
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - began
            yield batch


class RunData(pl.LightningDataModule):
    """The training data of a run.

    Args:
        make_loader: builds this rank's loader. state: where a resumed run continues.
    """

    def __init__(self, make_loader: MakeLoader) -> None:
        super().__init__()
        self._make_loader = make_loader
        self._state: Mapping[str, Any] | None = None
        self.timed: TimedLoader | None = None

    def train_dataloader(self) -> TimedLoader:
        assert self.trainer is not None
        loader = self._make_loader(self.trainer.global_rank, self.trainer.world_size)
        if self._state is not None:
            loader.load_state_dict(dict(self._state))
        self.timed = TimedLoader(loader)
        return self.timed

    @property
    def waited(self) -> float:
        """Seconds that training has waited for data."""
        return self.timed.waited if self.timed is not None else 0.0

    def position(self, batches: int) -> dict[str, Any]:
        """State after the `batches`-th batch of the run; workers and fetchers may be ahead of it."""
        assert self.timed is not None
        return self.timed.loader.state_after(batches)

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Start at a stored position; called before the loader is built."""
        self._state = state
