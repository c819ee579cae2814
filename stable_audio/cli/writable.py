"""Whether a command can write where it is told to, asked before the work of minutes that it would lose."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def require_folder(folder: str | os.PathLike[str] | None, flag: str = "--out") -> None:
    """Raise ValueError unless files can be written into `folder`, which need not exist; None is no folder.

    Nothing is left behind, and the folder is not made.
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
    if (reason := _refused(place)) is not None:
        raise ValueError(
            f"{flag} {folder}: {place} cannot be written to ({reason}); choose another folder, or make this "
            "one writable"
        )


def require_file(file: str | os.PathLike[str], flag: str) -> None:
    """Raise ValueError unless a file of this name can be written."""
    if os.path.isdir(file):
        raise ValueError(f"{flag} {file} is a folder, but a file is written here; give the name of a file")
    require_folder(Path(os.path.abspath(file)).parent, flag)


def _refused(folder: Path) -> str | None:
    """Why no file can be made in a folder that exists; None: it can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)
