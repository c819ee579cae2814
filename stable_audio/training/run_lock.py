"""One run at a time in a folder: two would overwrite each other's checkpoints."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from datetime import datetime, timezone
from pathlib import Path

from stable_audio.training.errors import TrainingError

log = logging.getLogger(__name__)

NAME = ".run.lock"
"""Name of the locked file in the folder of a run."""

_BUSY = (errno.EACCES, errno.EAGAIN)


class RunLock:
    """Keeps other processes from running in a folder until this one ends, however it ends, or releases it.

    The system holds the lock for this process alone: no killed run leaves one behind, and neither do data
    workers that outlive it for a moment. Where the file system has no locks, none is taken.

    Args:
        folder: folder of the run.

    Raises:
        TrainingError: another process runs there.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._descriptor = _locked(self._path)
        while self._descriptor is not None and not self._holds():
            os.close(self._descriptor)  # its last owner has removed the file meanwhile
            self._descriptor = _locked(self._path)

    def release(self) -> None:
        """Let others run in the folder."""
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

    def _holds(self) -> bool:
        assert self._descriptor is not None
        return _same_file(self._descriptor, self._path)


def _locked(path: Path) -> int | None:
    """Open and lock the file; None where that cannot be done."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:  # what writes the files of the run tells of a folder that takes none
        log.debug("%s cannot be opened", path, exc_info=error)
        return None
    try:
        # Not flock, which the data workers of a killed run would go on holding.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if error.errno in _BUSY:
            raise TrainingError(
                f"{path.parent} is in use by another run ({holder or 'its process is unknown'}); wait for "
                "its end, end it, or choose another --name"
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
