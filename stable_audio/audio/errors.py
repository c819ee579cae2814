"""The error of everything that reads or writes sound."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)


class AudioError(ValueError):
    """A sound file cannot be read or written. `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        return type(self), (self.path, self.reason)  # survives the way back from a worker process


class DiskFullError(AudioError):
    """A file was written in part only, as on a full disk."""


def disk_is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, or the share of it that this account may use, is full."""
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _FULL)
