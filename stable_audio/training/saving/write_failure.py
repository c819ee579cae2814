"""Why something was not written to a folder, in words."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from stable_audio.training.saving.folder import disk_of

_LIMITS = "the disk of %s has %.3g GB free, so a quota or a limit of file sizes (ulimit -f) may be the reason"


def write_failure(error: BaseException, folder: Path, *, size: int = 0) -> str:
    """The reason why something was not written to `folder`, with clear words for a full disk.

    Libraries report a full disk in many ways.

    Args:
        error: the exception.
        folder: where it should have been written.
        size: bytes that should have been written.
    """
    if isinstance(error, OSError) and error.errno is not None and error.errno != errno.ENOSPC:
        return str(error)
    place = disk_of(folder)
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return str(error)
    disk_is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if not disk_is_full and free > size:
        limited = size and isinstance(error, RuntimeError) and "write failed" in str(error)
        return f"{error}: {_LIMITS % (place, free / 1e9)}" if limited else str(error)
    needs = f", {size / 1e9:.3g} GB are needed" if size else ""
    return f"No space left on the disk of {place}: {free / 1e9:.3g} GB are free{needs}"
