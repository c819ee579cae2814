"""One time limit for several actions, for commands that must answer soon."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class _TimeIsUp(BaseException):
    """No Exception, so that handlers of errors do not take it for a mistake in the file."""


class Deadline:
    """A limit of the time that several actions may take together.

    Computing is measured in processor time, so that the result does not depend on how busy the machine is;
    actions that wait for disks are measured in clock time. The timer is a Unix signal of the main thread; in
    other threads there is no limit.

    Args:
        seconds: limit for all actions; None: no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._spent = 0.0

    def run(self, action: Callable[[], T], *, waits: bool = False) -> T:
        """Call `action` and return its result.

        Args:
            action: what to do.
            waits: whether it waits for disks.

        Raises:
            TimeoutError: the time is over; the action was interrupted.
        """
        main = threading.current_thread() is threading.main_thread()
        if self.seconds is None or not main or not hasattr(signal, "setitimer"):
            return action()
        timer, number = (
            (signal.ITIMER_REAL, signal.SIGALRM) if waits else (signal.ITIMER_PROF, signal.SIGPROF)
        )
        clock = time.monotonic if waits else time.process_time
        before, start = signal.signal(number, _interrupt), clock()
        # A timer of 0 seconds would never fire.
        signal.setitimer(timer, max(1e-3, self.seconds - self._spent))
        try:
            return action()
        except _TimeIsUp:
            raise TimeoutError(f"not done within {self.seconds:g} seconds") from None
        finally:
            signal.setitimer(timer, 0)
            signal.signal(number, before)
            self._spent += clock() - start


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _TimeIsUp
