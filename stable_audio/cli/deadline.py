"""Several actions within one time limit, for commands that have to answer soon."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class _TimeIsUp(BaseException):
    """Passes through handlers of ordinary errors, which would take it for a mistake of the file."""


class Deadline:
    """The moment by which actions have to be done.

    The timer is a Unix signal of the main thread; elsewhere there is no limit.

    Args:
        seconds: from now; None: no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`, or what it raises.

        Raises:
            TimeoutError: the moment came first; the action was broken off.
        """
        main = threading.current_thread() is threading.main_thread()
        if self._end is None or not main or not hasattr(signal, "setitimer"):
            return action()
        before = signal.signal(signal.SIGALRM, _break_off)
        # A timer of 0 would be none at all.
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self._end - time.monotonic()))
        try:
            return action()
        except _TimeIsUp:
            raise TimeoutError(f"not done within {self.seconds:g} seconds") from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _break_off(number: int, frame: FrameType | None) -> None:
    raise _TimeIsUp
