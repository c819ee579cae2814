"""Files that are either whole or absent."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`, on failure remove it.

    The temporary name keeps the suffix, because writers choose the format by it. A reader sees the old
    file or the new one, never a part: the data is flushed to disk before the rename.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.partial{target.suffix}")
    mode = _usual_mode(temporary)
    try:
        yield temporary
        # Some writers make files for their owner only; another account may train on what this one wrote.
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str], *, seconds: float = 900.0) -> int:
    """Remove temporary files that killed programs left directly in `folder`; returns how many.

    Args:
        seconds: younger ones stay, since somebody may be writing them.
    """
    removed = 0
    for path in Path(folder).glob(".*.*.partial*"):
        try:
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()
                removed += 1
        except OSError:  # another program was faster, or the folder is not ours to tidy
            continue
    return removed


def _usual_mode(path: Path) -> int:
    """Permissions of a new file at `path`, which is removed again."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)
        path.unlink()
