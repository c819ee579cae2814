"""Recognise an output folder that takes no more files, so that the message can say what to do."""

from __future__ import annotations

import errno
import os

_CODES = (errno.EROFS, errno.EACCES, errno.EPERM)


_FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_is_full(error: OSError) -> bool:
    """Whether a write failed because the disk, or the share of it that this account may use, is full."""
    return error.errno in _FULL


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
