"""Recognise, by their first bytes, files that are named like weights but hold something else."""

from __future__ import annotations

import string
from pathlib import Path

from stable_audio.stored.shards_folder import is_part

HEAD = 64
"""Number of bytes to inspect."""

_TEXT = frozenset(string.printable.encode())


def why_not_weights(path: Path) -> str | None:
    """The reason why the file cannot hold weights, without its path; None if it may hold them.

    Raises:
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if is_part(path):
        return f"one part of a checkpoint; give the folder with all its parts, {path.parent}"
    if not head:
        return "the file is empty; copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights; run `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not the weights; the download failed"
    if all(byte in _TEXT for byte in head):
        beginning = " ".join(head.decode("ascii").split())[:40]
        return f"a text file ({beginning!r}...), not the weights; give the .ckpt or .safetensors file"
    return None
