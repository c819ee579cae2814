"""The error of everything that reads or writes sound."""

from __future__ import annotations


class AudioError(ValueError):
    """A sound file cannot be read or written. `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # survives the way back from a worker process
