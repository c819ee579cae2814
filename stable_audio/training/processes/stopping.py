"""Ctrl-C, SIGTERM and SIGUSR1: recorded when they arrive, and acted on between two steps."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SAVE = getattr(signal, "SIGUSR1", None)
"""The signal for a checkpoint; batch systems send it before the end (`#SBATCH --signal=USR1@300`)."""

SIGNALS = tuple(n for n in (signal.SIGINT, signal.SIGTERM, SAVE) if n is not None)


ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a run and are not for a job that starts again."""

SAME_SECONDS = 1.0
"""Time in which several SIGTERM are one: `timeout` and some batch systems send it twice, to a process and its
group."""


_SAVED = "a checkpoint follows after this step, and training continues"
_NOTED = "acted on when the run begins"


class StopRequest:
    """Records signals that end the run, or save it. A second Ctrl-C interrupts at once, and so does a second
    SIGTERM before the first step.

    Attributes:
        signal: number of the signal that this process got to end the run, or None.
        others: number of the signal that another process got to end it, or None.
        save: whether a checkpoint is to be written after the current step.
        steps: whether the first step is done; before, there is nothing to save.
        over: whether training is over and what is left is to write its files: a signal then changes nothing
            of a run that none has ended before.

    Args:
        save_ends: SIGUSR1 ends the run as well, for a job that is put back into the queue; None: that is said
            later by `decide`, and until then it is only noted.
    """

    def __init__(self, *, save_ends: bool | None = False) -> None:
        self.signal: int | None = None
        self.others: int | None = None
        self.save = False
        self._save_ends = save_ends
        self.steps = self.over = False
        self._over_again = False
        self._asked_at = 0.0
        self._process = os.getpid()
        self._previous: dict[int, object] = {}

    def install(self) -> StopRequest:
        """Install the handlers, in the main thread only. May be called again if others replaced them."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                current = signal.signal(number, self._receive)
                self._previous.setdefault(number, current)
        return self

    def decide(self, *, save_ends: bool) -> None:
        """Say whether SIGUSR1 ends the run, also one that has come before."""
        self._save_ends = save_ends
        if self.save and save_ends:
            self.save = False
            if self.signal is None:
                assert SAVE is not None
                self.signal = SAVE
                log.warning("%s: stopping after the first step, with a checkpoint", _name(SAVE))

    def restore(self) -> None:
        """Restore the previous handlers."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has come to end the run."""
        return self.number is not None

    @property
    def number(self) -> int | None:
        """Number of the signal that ends the run: this process's own, else that of another one."""
        return self.others if self.signal is None else self.signal

    @property
    def exit_status(self) -> int:
        """0, or 128 + signal as shells count: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1."""
        return 0 if self.number is None else 128 + self.number

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            from stable_audio.data.workers import in_worker  # late, since it imports torch, as a fork has

            in_worker(number)
            return
        if self.over and not self.asked:
            self._receive_at_the_end(number)
            return
        if number == SAVE and not self._save_ends:
            self.save = True
            log.info("%s: %s", _name(number), _SAVED if self._save_ends is False else _NOTED)
            return
        if self._is_repeated(number):
            if not self.steps:
                log.warning("%s again, before the first step: the run ends at once", _name(number))
            raise Interrupted(number)
        if self.signal not in ENDING:
            self._asked_at = time.monotonic()
        self.signal = number
        ends = number == signal.SIGINT or (number in ENDING and not self.steps)
        log.warning(
            "%s: stopping after %s step, with a checkpoint%s",
            _name(number),
            "this" if self.steps else "the first",
            f"; {_again(number)} stops at once, without one" if ends else "",
        )

    def _receive_at_the_end(self, number: int) -> None:
        """What ends this process before the others are done would end them, too, in the middle of a file."""
        if number == signal.SIGINT and self._over_again:
            raise Interrupted(number)
        again = f"; {_again(number)} ends it at once" if number == signal.SIGINT else ""
        self._over_again = self._over_again or bool(again)
        log.warning(
            "%s: training is over, and the run ends when its files are written%s", _name(number), again
        )

    def _is_repeated(self, number: int) -> bool:
        """Whether a signal came again that ends the run at once then."""
        if number == signal.SIGINT:
            return self.signal is not None
        later = time.monotonic() - self._asked_at >= SAME_SECONDS
        return number in ENDING and self.signal in ENDING and later and not self.steps


class Interrupted(KeyboardInterrupt):
    """A signal that ends a command in order, as Ctrl-C does.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(_name(number))
        self.number = number

    @property
    def exit_status(self) -> int:
        """128 + signal, as shells count."""
        return 128 + self.number


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises `Interrupted` in the context, so that results are saved and temporary files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _again(number: int) -> str:
    return f"{'Ctrl-C' if number == signal.SIGINT else _name(number)} again"


def _name(number: int) -> str:
    return signal.Signals(number).name
