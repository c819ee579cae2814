"""Find sound files in folders."""

from __future__ import annotations

import itertools
import os
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stable_audio.audio.io import AUDIO_EXTENSIONS
from stable_audio.data.base import DataError, Rejected

COMPANIONS = frozenset({".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".npy", ".py", ".md", ".tar"})
"""Suffixes that are usual beside sound, and therefore not reported as ignored."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass
class Scan:
    """The sound files of a folder.

    Attributes:
        sizes: bytes of the files, in the order of `paths`; known from the look that every file gets anyway.
        problems: files and folders that could not be read, and why.
        ignored: suffix -> number of files that nothing reads.
    """

    paths: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("q"))
    problems: list[Rejected] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Leave out the files whose path is not wanted."""
        kept = [wanted(path) for path in self.paths]
        self.paths = list(itertools.compress(self.paths, kept))
        self.sizes = array("q", itertools.compress(self.sizes, kept))


def scan_folder(root: str | os.PathLike[str], extensions: Collection[str] = AUDIO_EXTENSIONS) -> Scan:
    """All files below `root` with one of the suffixes, sorted by path; hidden ones are skipped.

    Raises:
        DataError: `root` is not a folder that can be read.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise DataError(f"{root}: there is no such folder")
    scan = Scan()
    sizes = dict(_walk(root, extensions, scan, {os.path.realpath(root)}))
    scan.paths = sorted(sizes)
    scan.sizes = array("q", map(sizes.__getitem__, scan.paths))
    if any(p.path == root for p in scan.problems):
        raise DataError(f"{root}: {scan.problems[0].reason}")
    return scan


def _walk(
    folder: str, extensions: Collection[str], scan: Scan, visited: set[str]
) -> Iterator[tuple[str, int]]:
    """(path, bytes) of the files below a folder, in the order of the disk."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        scan.problems.append(Rejected(folder, f"folder cannot be read: {error.strerror}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not _is_utf8(entry.name):
            readable_path = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
            scan.problems.append(Rejected(readable_path, "its name is not UTF-8; rename it"))
            continue
        if _is_folder(entry):
            real = os.path.realpath(entry.path)
            if real not in visited:  # a link to a parent must not be followed for ever
                visited.add(real)
                yield from _walk(entry.path, extensions, scan, visited)
            continue
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix not in extensions:
            if suffix not in COMPANIONS:
                scan.ignored[suffix or "no suffix"] += 1
            continue
        size, reason = _look(entry.path)
        if reason is not None:
            scan.problems.append(Rejected(entry.path, reason))
        else:
            yield entry.path, size


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def why_no_file(path: str) -> str | None:
    """Why `path` is no regular file, or None. Opening a pipe or a device could block for ever."""
    return _look(path)[1]


def _look(path: str) -> tuple[int, str | None]:
    """(bytes, why `path` is no regular file or None)."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, "is a link to a file that is not there" if os.path.islink(path) else "is not there"
    except OSError as error:
        return 0, f"cannot be read: {error.strerror}"
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return status.st_size, None
    kind = next(
        (name for test, name in _KINDS if test(mode)), "a folder" if stat.S_ISDIR(mode) else "special"
    )
    return 0, f"is {kind}, not a file"


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_filelist(root: str, filelist: str | os.PathLike[str]) -> Scan:
    """Files listed one per line, relative to `root`; blank lines and comments (#) are skipped.

    If a file of exactly that name exists, a line counts as its name even if it begins with # or is surrounded
    by spaces.

    Raises:
        DataError: the list cannot be read.
    """
    if not os.path.isfile(filelist):
        raise DataError(f"{filelist}: file list {why_no_file(os.fspath(filelist))}")
    try:
        lines = Path(filelist).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{filelist}: file list cannot be read ({error})") from error
    scan = Scan()
    for line in lines:
        candidates = dict.fromkeys((line.removesuffix("\r"), line.strip()))
        match = next((found for c in candidates if c.strip() and (found := _file(root, c))), None)
        if match is not None:
            scan.paths.append(match[0])
            scan.sizes.append(match[1])
        elif line.strip() and not line.lstrip().startswith("#"):
            path = os.path.join(root, line.strip())
            scan.problems.append(Rejected(path, f"named in {filelist}, but {_absence_reason(path)}"))
    return scan


def _file(root: str, name: str) -> tuple[str, int] | None:
    """(path, bytes) of a regular file; None for anything else."""
    path = os.path.join(root, name)
    size, reason = (0, "a name that no file has") if "\0" in name else _look(path)
    return (path, size) if reason is None else None


def _absence_reason(path: str) -> str:
    reason = "is not there" if "\0" in path else why_no_file(path)
    return "not there" if reason == "is not there" else str(reason)


def filter_keywords(paths: Sequence[str], keywords: Sequence[str] | None) -> list[str]:
    """Keep files whose name contains at least one of the words, ignoring case."""
    if not keywords:
        return list(paths)
    words = [w.lower() for w in keywords]
    return [p for p in paths if any(w in os.path.basename(p).lower() for w in words)]


def find_files(
    root: str,
    *,
    extensions: Collection[str] = AUDIO_EXTENSIONS,
    filelist_path: str | None = None,
    keywords: Sequence[str] | None = None,
) -> Scan:
    """Files of one dataset entry: from its file list (`filelist.txt` by default), or by scanning.

    Raises:
        DataError: the folder or list cannot be read, or no file matches.
    """
    default_list = os.path.join(root, "filelist.txt")
    if filelist_path is None and os.path.isfile(default_list):
        filelist_path = default_list
    scan = read_filelist(root, filelist_path) if filelist_path is not None else scan_folder(root, extensions)
    matching = set(filter_keywords(scan.paths, keywords)) if keywords else scan.paths
    if not matching:
        raise DataError(f"{root}: no usable file found{_absence_cause(scan, extensions, keywords)}")
    if keywords:
        scan.keep(lambda path: path in matching)
    return scan


def _absence_cause(scan: Scan, extensions: Collection[str], keywords: Sequence[str] | None) -> str:
    cause = f" (looked for {', '.join(sorted(extensions))})"
    if scan.paths:
        return f"{cause}; none of {len(scan.paths)} matches keywords {list(keywords or ())}"
    if scan.problems:
        cause += f"; {scan.problems[0].path!r} {scan.problems[0].reason}"
    if scan.ignored:
        cause += "; found instead: " + ", ".join(f"{n} {suffix}" for suffix, n in scan.ignored.most_common(5))
    return cause
