"""Write files and folders atomically: a reader sees the complete new version or the old one."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`, on failure remove it.

    The temporary name keeps the suffix, because writers choose the format by it. A reader sees the old
    file or the new one, never a part: the data is flushed to disk before the rename. An OSError without a
    file, as of a full disk, names `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.partial{target.suffix}")
    mode = _usual_mode(temporary)
    try:
        yield temporary
        _settle(temporary, mode)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str], *, seconds: float = 900.0) -> int:
    """Remove temporary files and folders that killed programs left directly in `folder`; returns how many.

    Args:
        seconds: files younger than this stay, because another process may still be writing them.
    """
    removed = 0
    for path in Path(folder).glob(".*.*.partial*"):
        try:
            if time.time() - path.stat().st_mtime > seconds:
                _remove(path)
                removed += 1
        except OSError:  # another program was faster, or the folder is not ours to tidy
            continue
    return removed


@contextmanager
def atomic_entries(folder: str | os.PathLike[str], *, last: str) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; its entries go into `folder` on success, none on failure.

    An entry replaces one of the same name, and others stay.

    Args:
        last: the entry that tells readers that the folder is complete: its old version is removed first, its
            new version is moved into place last.

    Raises:
        FileExistsError: `folder` is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file, but a folder is to be written there; give another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    temporary.mkdir()
    try:
        yield temporary
        mode = _usual_mode(temporary / f"{last}.partial")
        for file in (path for path in temporary.rglob("*") if path.is_file()):
            _settle(file, mode)
        target.mkdir(exist_ok=True)
        (target / last).unlink(missing_ok=True)
        for entry in sorted(temporary.iterdir(), key=lambda e: e.name == last):
            _remove(target / entry.name)
            os.replace(entry, target / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(path: Path, mode: int) -> None:
    """Give a written file the usual permissions and flush it to disk."""
    # Some writers make files for their owner only; another account may train on what this one wrote.
    os.chmod(path, mode)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _usual_mode(path: Path) -> int:
    """Permissions that a new file at `path` gets; creates and removes one to find out."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)
        path.unlink()
