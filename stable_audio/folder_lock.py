"""One process at a time in a folder."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path

log = logging.getLogger(__name__)

_BUSY = (errno.EACCES, errno.EAGAIN)


class FolderInUseError(OSError):
    """Another process holds a folder."""


class FolderLock:
    """Keeps a folder for this process until it ends, however it ends, or releases it.

    The system holds the lock for this process alone: none that is killed leaves one behind, and neither do
    processes that it has started and that outlive it for a moment. Where the file system has no locks, none
    is taken.

    Args:
        folder: the folder; it is made if it is not there.
        name: name of the locked file in it.
        user: what holds it, such as "run", for the message.
        hint: what can be done where another one does.

    Raises:
        FolderInUseError: another process holds it.
    """

    def __init__(self, folder: Path, name: str, *, user: str, hint: str) -> None:
        self._path, self._user, self._hint = folder / name, user, hint
        self._descriptor = self._locked()
        while self._descriptor is not None and not _same_file(self._descriptor, self._path):
            os.close(self._descriptor)  # its last owner has removed the file meanwhile
            self._descriptor = self._locked()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others use the folder."""
        descriptor, self._descriptor = getattr(self, "_descriptor", None), None
        if descriptor is None:
            return
        try:
            if _same_file(descriptor, self._path):
                self._path.unlink()
        except OSError as error:
            log.debug("%s was not removed", self._path, exc_info=error)
        finally:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()

    def _locked(self) -> int | None:
        """Open and lock the file; None where that cannot be done."""
        path = self._path
        if sys.platform == "win32":
            return None
        import fcntl

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:  # what writes other files tells of a folder that takes none
            log.debug("%s cannot be opened", path, exc_info=error)
            return None
        try:
            # Not flock, which the data workers of a killed run, for example, would go on holding.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in _BUSY:
                holder = f"{self._user} ({held or 'its process is unknown'})"
                raise FolderInUseError(
                    f"{path.parent} is in use by another {holder}; {self._hint}"
                ) from error
            log.debug("%s cannot be locked", path, exc_info=error)
            return None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _owner().encode(), 0)
        except OSError as error:  # a full disk
            log.debug("%s is locked, but not written", path, exc_info=error)
        return descriptor


def _owner() -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {socket.gethostname()}, since {now}\n"


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether `path` is the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
