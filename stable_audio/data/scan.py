"""Finding sound files in folders."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from stable_audio.audio.io import AUDIO_EXTENSIONS
from stable_audio.data.base import DataError, Rejected


def scan_folder(
    root: str | os.PathLike[str], extensions: Collection[str] = AUDIO_EXTENSIONS
) -> tuple[list[str], list[Rejected]]:
    """All files below `root` with one of the suffixes, sorted by path; hidden ones are skipped.

    Returns:
        paths, and the folders that could not be read.

    Raises:
        DataError: `root` is not a folder that can be read.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise DataError(f"{root}: there is no such folder")
    problems: list[Rejected] = []
    paths = sorted(_walk(root, extensions, problems, {os.path.realpath(root)}))
    if any(p.path == root for p in problems):
        raise DataError(f"{root}: {problems[0].reason}")
    return paths, problems


def _walk(
    folder: str, extensions: Collection[str], problems: list[Rejected], seen: set[str]
) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        problems.append(Rejected(folder, f"folder cannot be read: {error.strerror}"))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not _is_utf8(entry.name):
            shown = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
            problems.append(Rejected(shown, "its name is not UTF-8; rename it"))
            continue
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in seen:  # a link to a parent must not be followed for ever
                seen.add(real)
                yield from _walk(entry.path, extensions, problems, seen)
        elif os.path.splitext(entry.name)[1].lower() in extensions:
            yield entry.path


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_filelist(root: str, filelist: str | os.PathLike[str]) -> tuple[list[str], list[Rejected]]:
    """Paths listed one a line, relative to `root`; blank lines and lines starting with # are skipped.

    Raises:
        DataError: the list cannot be read.
    """
    try:
        lines = Path(filelist).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{filelist}: file list cannot be read ({error})") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    paths = [os.path.join(root, name) for name in names]
    missing = [Rejected(p, f"named in {filelist} but not there") for p in paths if not os.path.isfile(p)]
    absent = {m.path for m in missing}
    return [p for p in paths if p not in absent], missing


def filter_keywords(paths: Sequence[str], keywords: Sequence[str] | None) -> list[str]:
    """Keep files whose name holds at least one of the words, whatever the case."""
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
) -> tuple[list[str], list[Rejected]]:
    """Files of one dataset entry: from its file list (`filelist.txt` in the folder counts), or by scanning.

    Raises:
        DataError: the folder or list cannot be read, or nothing is left.
    """
    default_list = os.path.join(root, "filelist.txt")
    if filelist_path is None and os.path.isfile(default_list):
        filelist_path = default_list
    if filelist_path is not None:
        paths, problems = read_filelist(root, filelist_path)
    else:
        paths, problems = scan_folder(root, extensions)
    kept = filter_keywords(paths, keywords)
    if not kept:
        what = ", ".join(sorted(extensions))
        extra = f"; none of {len(paths)} matches keywords {list(keywords or ())}" if paths else ""
        raise DataError(f"{root}: no usable file found (looked for {what}){extra}")
    return kept, problems
