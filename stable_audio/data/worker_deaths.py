"""Notice that a data worker was killed, while its batch is waited for and nowhere else."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

MOST_DEATHS = 3
"""Number of times that workers may die without a batch in between."""

_DEATH = re.compile(r"DataLoader worker \(pid")
_END = object()

Handler = Callable[[int, "FrameType | None"], Any]


class WorkerDied(RuntimeError):
    """A data worker was killed, as by the system when memory runs out."""


class DeathWatch:
    """A handler of SIGCHLD in the place of torch's, which raises an error wherever the main thread is.

    In the middle of a step such an error would end the run. This one passes the signal on while a batch is
    waited for, or else when the next one is.

    Args:
        tell: torch's handler; raises RuntimeError if a worker has died.
    """

    def __init__(self, tell: Handler) -> None:
        self._tell = tell
        self._waits = self._heard = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._waits:
            self._tell(number, frame)
        else:
            self._heard = True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context in which a worker's death raises RuntimeError."""
        self._waits = True
        try:
            heard, self._heard = self._heard, False
            if heard:
                self._tell(signal.SIGCHLD, None)
            yield
        finally:
            self._waits = False


class DoneEvent:
    """The event by which torch tells its workers that they are done, for the process that sets it.

    Workers read it under a lock. One that is killed meanwhile keeps that lock, and torch, which looks at the
    event whenever a worker has died, would wait for it for ever.

    Args:
        event: torch's event, which this process alone sets.
        seconds: how long to wait for the lock; workers that are kept by it are terminated by torch.
    """

    def __init__(self, event: Any, *, seconds: float = 1.0) -> None:
        self._event, self._seconds = event, seconds
        self._done = False

    def is_set(self) -> bool:
        """Whether this process has set it."""
        return self._done

    def set(self) -> None:
        """Tell the workers, with the lock or, where that does not come free, without it."""
        self._done = True
        locked = self._event._cond.acquire(True, self._seconds)
        try:
            self._event._flag.acquire(False)  # a semaphore, which is at most 1
            self._event._flag.release()
        finally:
            if locked:
                self._event._cond.release()


def batches_of(loader: DataLoader) -> Iterator[Any]:
    """What the workers of `loader` prepare, in order.

    Raises:
        WorkerDied: one of them was killed.
    """
    if not loader.num_workers:
        yield from loader
        return
    with _told():  # the first loader of a process begins under torch's own handler
        items = iter(loader)
    if hasattr(items, "_workers_done_event"):
        items._workers_done_event = DoneEvent(items._workers_done_event)  # type: ignore[attr-defined]
    watch = _watch()
    while True:
        with _told(), watch.waiting() if watch is not None else nullcontext():
            try:
                item = next(items, _END)
            except (EOFError, ConnectionError) as error:
                if not _has_died(items):
                    raise
                raise WorkerDied("a DataLoader worker has died while it sent a batch") from error
        if item is _END:
            return
        yield item


def _has_died(items: Any, seconds: float = 5.0) -> bool:
    """Whether a worker is dead, or is in a moment: its connections close before the system tells of it."""
    until = time.monotonic() + seconds
    while all(worker.is_alive() for worker in getattr(items, "_workers", ())):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def _told() -> Iterator[None]:
    """Context in which what torch says of the death of a worker becomes `WorkerDied`."""
    try:
        yield
    except RuntimeError as error:
        if _DEATH.search(str(error)):
            raise WorkerDied(str(error).strip()) from None  # not the workers' queues with it
        raise


def _watch() -> DeathWatch | None:
    """The watch of this process, in the place of torch's handler once that is there."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return None
    handler = signal.getsignal(signal.SIGCHLD)
    if isinstance(handler, DeathWatch):
        return handler
    if getattr(handler, "__module__", "") != "torch.utils.data._utils.signal_handling":
        return None
    watch = DeathWatch(handler)  # type: ignore[arg-type]
    signal.signal(signal.SIGCHLD, watch)
    return watch
