"""Errors of files and folders as sentences that say what to do."""

from __future__ import annotations

import errno
import os

_CODES = (errno.EROFS, errno.EACCES, errno.EPERM)


def unwritable_folder(error: OSError) -> str | None:
    """The existing folder that refused a write; None for other errors, such as those of reading."""
    if error.errno not in _CODES or not isinstance(error.filename, (str, bytes, os.PathLike)):
        return None
    path = os.path.abspath(os.fsdecode(error.filename))
    if os.path.isfile(path) and not os.access(path, os.R_OK):
        return None
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder if error.errno == errno.EROFS or not os.access(folder, os.W_OK) else None


def plain_reason(error: OSError) -> str | None:
    """What is wrong with the file or folder that an error names; None if it names none."""
    if error.errno is None or not isinstance(error.filename, (str, bytes, os.PathLike)):
        return None
    if error.filename2 is not None:
        return None
    name = os.fsdecode(error.filename)
    if isinstance(error, FileNotFoundError):
        return f"{name}: no such file or folder"
    if isinstance(error, IsADirectoryError):
        return f"{name}: is a folder, but a file is needed here"
    if isinstance(error, (FileExistsError, NotADirectoryError)) and (file := _file_on_the_way(name)):
        return f"{file}: is a file, but a folder is needed here; give another name"
    return f"{name}: {error.strerror}"


def _file_on_the_way(name: str) -> str | None:
    """The first file among a path and the folders that it goes through."""
    while name and not os.path.isfile(name):
        parent = os.path.dirname(name)
        name = parent if parent != name else ""
    return name or None
