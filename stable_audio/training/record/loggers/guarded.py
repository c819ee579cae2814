"""Keep a run going when its loggers cannot write: failures are reported, and rows are written later."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.incidents import incident
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.saving.write_failure import write_failure
from stable_audio.wording import plural

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Maximum number of rows that wait to be written; the oldest are lost."""


class GuardedLogger(RunLogger):
    """Passes everything on to `member`, and logs when it starts failing and when it works again.

    Rows that could not be written are tried again with the next row; sounds and pictures are not.
    """

    def __init__(self, member: RunLogger) -> None:
        self.member = member
        self.failure: str | None = None
        self._waiting: deque[tuple[dict[str, float], int]] = deque(maxlen=MAX_WAITING)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._waiting.append((dict(values), step))
        self._try(self._write_waiting)

    def audio(self, name: str, audio: Tensor, sample_rate: int, step: int, *, caption: str = "") -> None:
        self._try(lambda: self.member.audio(name, audio, sample_rate, step, caption=caption))

    def image(self, name: str, path: Path, step: int) -> None:
        self._try(lambda: self.member.image(name, path, step))

    def rewind(self, step: int) -> None:
        self._waiting = deque((row for row in self._waiting if row[1] <= step), maxlen=MAX_WAITING)
        self._try(lambda: self.member.rewind(step))

    def close(self) -> None:
        if self._waiting:
            self._try(self._write_waiting)
        if self._waiting:
            log.error("%s: %s not written", self._name, plural(len(self._waiting), "row", "were"))
        self._try(self.member.close)

    def _write_waiting(self) -> None:
        while self._waiting:
            self.member.scalars(*self._waiting[0])
            self._waiting.popleft()

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            reason = f"{type(error).__name__}: {write_failure(error, self._folder)}"
            if reason != self.failure:
                message = "%s cannot be written (%s); training continues, and it is tried again"
                log.error(message, self._name, reason, extra=incident("log not written"))
            self.failure = reason
        else:
            if self.failure is not None and not self._waiting:
                log.warning("%s can be written again", self._name)
                self.failure = None

    @property
    def _folder(self) -> Path:
        return getattr(self.member, "folder", Path())

    @property
    def _name(self) -> str:
        path: Any = getattr(self.member, "path", None)
        return str(path) if path is not None else type(self.member).__name__
