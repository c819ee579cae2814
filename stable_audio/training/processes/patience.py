"""A wait for other processes, which does not last for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.stopping import ENDING, Interrupted, StopRequest

log = logging.getLogger(__name__)

TOLD_SECONDS = 20.0
"""Between two lines of the log about a wait."""

NOT_BEGUN = "the run has not begun: start all processes again"


class Patience:
    """A wait for other processes, which ends after some time, at a signal, or when one of them has died.

    Args:
        seconds: longest wait.
        stop: signals that end the run.
        verdict: returns the sentence that names a dead process, once there is one.
        advice: what to do when the time is over.
    """

    def __init__(
        self,
        seconds: float,
        *,
        stop: StopRequest,
        verdict: Callable[[], str | None] = lambda: None,
        advice: str = "see the logs of the others, and start all of them again",
    ) -> None:
        self.seconds, self.advice = seconds, advice
        self.stop, self._verdict = stop, verdict
        self._began = time.monotonic()
        self._told = self._began
        self._pause = 0.01

    def pause(self, awaited: str) -> None:
        """Sleep for a moment; raises if the wait is over.

        Args:
            awaited: what this process waits for, for messages.

        Raises:
            TrainingError: the time is over, or a process has died.
            Interrupted: a signal has come to end the run.
        """
        if self.stop.signal in ENDING:
            raise Interrupted(self.stop.signal)
        if (verdict := self._verdict()) is not None:
            raise TrainingError(f"{verdict}; {NOT_BEGUN}")
        now = time.monotonic()
        if now - self._began > self.seconds:
            raise TrainingError(f"waited {self.seconds:g} seconds for {awaited}; {self.advice}")
        if now - self._told > TOLD_SECONDS:
            self._told = now
            log.info("waiting for %s, for %d s", awaited, now - self._began)
        time.sleep(self._pause)
        self._pause = min(0.5, 1.5 * self._pause)
