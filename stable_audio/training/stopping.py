"""Ctrl-C and SIGTERM: noted at once, acted on between two steps."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Remembers that someone asked the run to end. The second Ctrl-C interrupts at once.

    Attributes:
        signal: the number that arrived, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._process = os.getpid()
        self._previous: dict[int, object] = {}

    def install(self) -> StopRequest:
        """Take the signals over; only the main thread can. May be called again after others took them."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                current = signal.signal(number, self._receive)
                self._previous.setdefault(number, current)
        return self

    def restore(self) -> None:
        """Give the signals back."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    @property
    def exit_status(self) -> int:
        """0, or 128 + signal as shells count: 130 for Ctrl-C, 143 for SIGTERM."""
        return 0 if self.signal is None else 128 + self.signal

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _in_worker(number)
            return
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        log.warning(
            "%s: stopping after this step, with a checkpoint%s",
            signal.Signals(number).name,
            "; Ctrl-C again stops at once, without one" if number == signal.SIGINT else "",
        )


def _in_worker(number: int) -> None:
    """Forked data workers inherit the handler: Ctrl-C is their parent's business, SIGTERM ends them."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
