"""One service to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class FolderLock:
    """Holds a folder for this process for as long as the `with` block lasts.

    The system lets go of it when the process ends, however it ends.

    Args:
        folder: it is made if it is not there.

    Raises:
        OSError: on entry, another process holds it, or it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: Any = None

    def __enter__(self) -> FolderLock:
        try:
            import fcntl
        except ImportError:  # a system without such locks
            return self
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise OSError(
                f"{self._path.parent}: another service uses this folder; choose another one with --out"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
