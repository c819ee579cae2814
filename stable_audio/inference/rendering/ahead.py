"""Work that a thread does while the results that it had before are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


class Abandoned(BaseException):
    """Raised in the thread when nobody wants its results any more."""


def ahead(produce: Callable[[Callable[[], None]], Iterator[T]]) -> Generator[T, None, None]:
    """The results of `produce`, which makes the next one in a thread of its own while the last is used.

    Two results exist at most: the one in use, and one that is being made or waits. An error of `produce` is
    raised here, after the results before it.

    Args:
        produce: called with a function that it calls as often as it can stop; this raises `Abandoned` once
            the iteration has ended early. The thread has ended when the iteration has.
    """
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    taken, abandoned = threading.Semaphore(0), threading.Event()

    def check() -> None:
        if abandoned.is_set():
            raise Abandoned

    def work() -> None:
        try:
            for result in produce(check):
                results.put((result, None))
                del result  # the one who uses it says how long it lives
                taken.acquire()
                check()
        except Abandoned:
            return
        except BaseException as error:
            results.put((_END, error))
            return
        results.put((_END, None))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            result, error = results.get()
            if error is not None:
                raise error
            if result is _END:
                return
            taken.release()
            yield result
            del result
    finally:
        abandoned.set()
        taken.release()
        thread.join()
