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
    """The time that several actions may take together.

    Computing is measured in time of the processor, so that a busy machine does not make a file too large;
    what waits for disks in time of the clock. The timer is a Unix signal of the main thread; elsewhere there
    is no limit.

    Args:
        seconds: for all actions; None: no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._spent = 0.0

    def run(self, action: Callable[[], T], *, waits: bool = False) -> T:
        """The result of `action`, or what it raises.

        Args:
            waits: the action reads from disks.

        Raises:
            TimeoutError: the time is over; the action was broken off.
        """
        main = threading.current_thread() is threading.main_thread()
        if self.seconds is None or not main or not hasattr(signal, "setitimer"):
            return action()
        timer, number = (
            (signal.ITIMER_REAL, signal.SIGALRM) if waits else (signal.ITIMER_PROF, signal.SIGPROF)
        )
        clock = time.monotonic if waits else time.process_time
        before, start = signal.signal(number, _break_off), clock()
        # A timer of 0 would be none at all.
        signal.setitimer(timer, max(1e-3, self.seconds - self._spent))
        try:
            return action()
        except _TimeIsUp:
            raise TimeoutError(f"not done within {self.seconds:g} seconds") from None
        finally:
            signal.setitimer(timer, 0)
            signal.signal(number, before)
            self._spent += clock() - start


def _break_off(number: int, frame: FrameType | None) -> None:
    raise _TimeIsUp
