"""Files that look like weights by their name only: a sentence for each kind, from their first bytes."""

from __future__ import annotations

import string
from pathlib import Path

HEAD = 64
"""Bytes that are looked at."""

_TEXT = frozenset(string.printable.encode())


def why_not_weights(path: Path) -> str | None:
    """Why the file cannot hold weights, without the path; None where it may.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        return "the file is empty; copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights; run `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not the weights; the download failed"
    if all(byte in _TEXT for byte in head):
        begins = " ".join(head.decode("ascii").split())[:40]
        return f"a text file ({begins!r}...), not the weights; give the .ckpt or .safetensors file"
    return None
