"""Whether a command can write where it is told to, asked before the work of minutes that it would lose."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

WEIGHTS_FILES = (".safetensors", ".ckpt")
"""Endings of the files with weights that commands write."""


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


def require_weights_file(file: str | os.PathLike[str], flag: str, *sources: str | None) -> None:
    """Raise ValueError unless a file with weights can be written by this name.

    Args:
        sources: files and folders of runs that are read, whose own files it must not replace.
    """
    require_file(file, flag)
    path = Path(file)
    if path.suffix not in WEIGHTS_FILES:
        raise ValueError(f"{flag} {file}: the name must end in {' or '.join(WEIGHTS_FILES)}")
    for source in filter(None, sources):
        place = path.parent if os.path.isdir(source) else path
        if path.exists() and os.path.exists(source) and os.path.samefile(place, source):
            raise ValueError(f"{flag} {file} is of what is read, and would be replaced; give another name")


def _refused(folder: Path) -> str | None:
    """Why no file can be made in a folder that exists; None: it can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)
