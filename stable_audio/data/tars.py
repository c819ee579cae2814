"""Tar files as random-access collections of samples: an index of their headers, no extraction."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from stable_audio.audio.json_files import parse_json_object
from stable_audio.audio.slices import FileSlice
from stable_audio.data.base import DataError, Rejected
from stable_audio.data.scan import scan_folder
from stable_audio.wording import plural

_LOG = logging.getLogger(__name__)
_BLOCK = tarfile.BLOCKSIZE


class Sample(NamedTuple):
    """Members of one tar that share a key.

    Attributes:
        key: name that the members share: "folder/name".
        parts: suffix without its dot -> bytes of the tar.
    """

    tar: str
    key: str
    parts: Mapping[str, FileSlice]

    @property
    def name(self) -> str:
        return f"{self.tar}/{self.key}"

    def first(self, suffixes: Sequence[str]) -> FileSlice | None:
        """The part with the first of the suffixes that the sample has; None if it has none."""
        return next((self.parts[s] for s in suffixes if s in self.parts), None)

    def metadata(self) -> dict[str, Any]:
        """The JSON part; raises ValueError if it is missing or no object."""
        part = self.parts.get("json")
        if part is None:
            raise ValueError("has no .json beside it in the tar")
        try:
            return parse_json_object(part.read(), source=part.name, repair=True)
        except OSError as error:
            raise ValueError(f"{part.name} cannot be read ({error})") from error


def find_tars(path: str) -> tuple[list[str], list[Rejected]]:
    """A tar, or the tars below a folder.

    Raises:
        DataError: there are none.
    """
    if os.path.isfile(path):
        return [path], []
    scan = scan_folder(path, {".tar"})
    if not scan.paths:
        raise DataError(f"{path}: no .tar file found")
    return scan.paths, scan.problems


def index_tar(path: str) -> tuple[list[Sample], list[Rejected]]:
    """The samples of a tar in order, and the faults of the tar: damaged or cut off parts.

    After a damaged header, reading continues at the next intact one; several tars may be concatenated. A
    repeated name begins another sample, called `name#2`.
    """
    problems: list[Rejected] = []
    groups: dict[str, list[dict[str, FileSlice]]] = {}
    order: list[tuple[str, int]] = []
    size = os.path.getsize(path) if os.path.isfile(path) else 0  # once: a server may have to be asked
    for member in _members(path, problems):
        folder, base = os.path.split(member.name)
        if not member.isfile() or base.startswith("."):
            continue
        name = f"{path}/{member.name}"
        if member.offset_data + member.size > size:
            problems.append(Rejected(name, "cut off: the tar ends within it"))
            continue
        stem, _, suffix = base.partition(".")
        key = os.path.join(folder, stem)
        parts = groups.setdefault(key, [])
        if not parts or suffix.lower() in parts[-1]:
            parts.append({})
            order.append((key, len(parts)))
        parts[-1][suffix.lower()] = FileSlice(path, member.offset_data, member.size, name)
    if repeats := len(order) - len(groups):
        _LOG.warning(
            "%s: %s the name of an earlier one; each is a separate sample",
            path,
            plural(repeats, "sample", "have"),
        )
    return [
        Sample(path, key if number == 1 else f"{key}#{number}", groups[key][number - 1])
        for key, number in order
    ], problems


def _members(path: str, problems: list[Rejected]) -> Iterator[tarfile.TarInfo]:
    """Every member with an intact header; gaps between them are added to `problems`."""
    next_offset, any_member = 0, False
    try:
        with open(path, "rb") as file, tarfile.open(path, "r:", ignore_zeros=True) as archive:
            size = os.path.getsize(path)
            while (member := _next(archive, size)) is not None:
                _note_gap(path, file, next_offset, member.offset, problems)
                any_member, next_offset = True, member.offset_data + -(-_stored(member) // _BLOCK) * _BLOCK
                yield member
            if any_member:
                _note_gap(path, file, next_offset, size, problems)
    except (tarfile.TarError, OSError) as error:
        problems.append(Rejected(path, f"not a tar that can be read in place ({error})"))
        return
    if not any_member:
        problems.append(Rejected(path, "not a tar that can be read in place (no header is whole)"))


def _next(archive: tarfile.TarFile, size: int) -> tarfile.TarInfo | None:
    while archive.firstmember is not None or archive.offset <= size:  # type: ignore[attr-defined]
        try:
            return archive.next()
        except tarfile.TarError:  # a damaged extension header, or the end within a member
            archive.offset += _BLOCK
    return None


def _stored(member: tarfile.TarInfo) -> int:
    return member.size if member.isreg() else 0


def _note_gap(path: str, file: BinaryIO, start: int, stop: int, problems: list[Rejected]) -> None:
    """Add a problem if anything lies between two members but blocks of zeros and global headers."""
    while start < stop:
        file.seek(start)
        block = file.read(min(_BLOCK, stop - start))
        if not block:
            return
        if block[156:157] == b"g":
            length = int(block[124:135].strip(b"\0 ") or b"0", 8)
            start += _BLOCK + -(-length // _BLOCK) * _BLOCK
        elif block.strip(b"\0"):
            reason = f"damaged: no header can be read from byte {start} to {stop}; what was there is lost"
            problems.append(Rejected(path, reason))
            return
        else:
            start += _BLOCK
