"""Watches the other processes of a run while it trains."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch

from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.heartbeat import Heartbeat, is_lost_connection, own_store
from stable_audio.training.processes.meeting import Meeting


class StayAlive(pl.Callback):
    """Starts the signs of life of this process once the processes have met: those of a launcher before
    anything is built, those that Lightning starts when it sets up the training.

    It must come before `Checkpoints`, which may take long to save after an error.

    Attributes:
        heartbeat: the signs of life; None for a single process.

    Args:
        seconds: after so many without a sign of life a process is taken for dead; 0: none is watched.
        last_words: called with the sentence that names the dead process, before this process ends for it.
    """

    def __init__(self, *, seconds: float, last_words: Callable[[str], None] | None = None) -> None:
        self.seconds, self.last_words = seconds, last_words
        self.heartbeat: Heartbeat | None = None

    def begin(self, meeting: Meeting) -> None:
        """Give signs of life from now on, where the processes have met."""
        if self.seconds > 0:
            self._start("alive", meeting.connection(), meeting.rank, meeting.size)
            meeting.verdict = self._verdict

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Context whose errors end the other processes, too, with a sentence that names this one."""
        try:
            yield
        except BaseException as error:
            self.stop(f"{type(error).__name__}: {error}")
            raise

    def _verdict(self) -> str | None:
        return None if self.heartbeat is None else self.heartbeat.verdict

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if self.seconds == 0 or trainer.world_size == 1 or self.heartbeat is not None:
            return
        # A restarted job may meet at the store of the one before.
        name = trainer.strategy.broadcast(uuid.uuid4().hex)
        store = own_store(self.seconds)
        if store is None:
            return
        self._start(f"alive {name}", store, trainer.global_rank, trainer.world_size, _adopted(trainer))

    def _start(self, name: str, store: Any, rank: int, size: int, children: Sequence[Any] = ()) -> None:
        self.heartbeat = Heartbeat(
            torch.distributed.PrefixStore(name, store),
            rank=rank,
            size=size,
            seconds=self.seconds,
            give_up=self._give_up,
            children=children,
        ).start()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.heartbeat is not None:
            self.heartbeat.leave()

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Context in which an error of communication names the process that has died, if one has.

        Raises:
            TrainingError: it has.
        """
        try:
            yield
        except (RuntimeError, OSError) as error:
            if self.heartbeat is None or not is_lost_connection(error):
                raise
            verdict = self.heartbeat.wait_for_verdict()
            if verdict is None:
                raise
            raise TrainingError(f"{verdict}; continue with the same command and --recover") from error

    def stop(self, failure: str | None = None) -> None:
        """This process ends, with an error or in order."""
        if self.heartbeat is not None:
            self.heartbeat.stop(failure)

    def _give_up(self, sentence: str) -> None:
        """End this process, whose main thread waits on a device or in a library and cannot be interrupted."""
        if self.last_words is not None:
            self.last_words(sentence)
        os._exit(2)


def _adopted(trainer: pl.Trainer) -> list[Any]:
    """The processes that Lightning has started for this one, with the watch over them taken over.

    Lightning's own watch kills this process without a word if one of them ends with an error.
    """
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._run = lambda: True  # type: ignore[attr-defined]  # it is done
    return list(getattr(trainer.strategy.launcher, "procs", ()))
