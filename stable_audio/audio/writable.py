"""Whether files can be written where they are to be, asked before the work of minutes that would be lost."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from stable_audio.audio.errors import disk_is_full


def require_folder(
    folder: str | os.PathLike[str] | None, flag: str = "--out", *, may_be_full: bool = False
) -> None:
    """Raise ValueError unless files can be written into `folder`, which need not exist; None is no folder.

    Nothing is left behind, and the folder is not made.

    Args:
        may_be_full: take a full disk, on which the caller can make room.
    """
    if folder is None:
        return
    for place in (path := Path(os.path.abspath(folder)), *path.parents):
        if place.is_dir():
            break
        if os.path.lexists(place):
            raise ValueError(
                f"{flag} {folder}: {place} is not a folder, but a folder is needed here; give another name"
            )
    error = _refusal(place)
    if error is None or (may_be_full and disk_is_full(error)):
        return
    raise ValueError(
        f"{flag} {folder}: {place} cannot be written to ({error.strerror or error}); choose another folder, "
        "or make this one writable"
    )


def require_file(file: str | os.PathLike[str], flag: str, *sources: str | None) -> None:
    """Raise ValueError unless a file of this name can be written.

    Args:
        sources: files and folders of runs that are read, whose own files it must not replace.
    """
    if os.path.isdir(file):
        raise ValueError(f"{flag} {file} is a folder, but a file is written here; give the name of a file")
    path = Path(os.path.abspath(file))
    require_folder(path.parent, flag)
    for source in filter(None, sources):
        place = path.parent if os.path.isdir(source) else path
        if path.exists() and os.path.exists(source) and os.path.samefile(place, source):
            raise ValueError(f"{flag} {file} is of what is read, and would be replaced; give another name")


def _refusal(folder: Path) -> OSError | None:
    """Why no file can be made in a folder that exists; None: it can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error
