"""Incidents of the further processes of a run, each in a file of its own, for the record of the first one.

A file is only ever appended to, so a process that is killed leaves what it has told, and no process waits for
another one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio.audio.json_files import JsonError, parse_json_object

log = logging.getLogger(__name__)

PATTERN = "incidents.*.jsonl"
"""Names of the files, in the folder of the run; the number is that of the process."""

MOST_LINES = 1000
"""Incidents that a process writes in one start; those after them are in its log alone."""


class OwnIncidents:
    """Appends the incidents of one process to its file.

    Args:
        folder: folder of the run.
        rank: number of this process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / PATTERN.replace("*", str(rank))
        self._lines = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add an incident; on a disk that takes none it is in the log of this process alone."""
        if self._lines >= MOST_LINES:
            return
        # The first line of a start may follow one that a killed process has left unfinished.
        begin = "\n" if self._lines == 0 else ""
        self._lines += 1
        try:
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{begin}{json.dumps(dict(entry), default=str)}\n")
        except (OSError, ValueError, TypeError) as error:
            log.debug("%s was not written", self.path, exc_info=error)


class NewIncidents(NamedTuple):
    """What the files hold beyond what was read before.

    Attributes:
        entries: the incidents, each with the number of its process as "process".
        read: name of a file -> bytes of it that are read now.
    """

    entries: list[dict[str, Any]]
    read: dict[str, int]


def new_incidents(folder: Path, read: Mapping[str, Any]) -> NewIncidents:
    """The incidents in the files of further processes that have not been read.

    Args:
        folder: folder of the run.
        read: name of a file -> bytes of it that have been read.
    """
    entries: list[dict[str, Any]] = []
    now: dict[str, int] = {}
    for path in sorted(folder.glob(PATTERN), key=lambda path: (len(path.name), path.name)):
        rank, before = path.name.split(".")[1], read.get(path.name)
        begin = before if isinstance(before, int) else 0
        try:
            size = path.stat().st_size
            begin = begin if 0 <= begin <= size else 0  # a shorter file is another one
            text = _lines_from(path, begin) if size > begin else b""
        except OSError as error:
            log.debug("%s cannot be read", path, exc_info=error)
            continue
        if rank.isdecimal():
            entries += [{**entry, "process": int(rank)} for entry in _parsed(text, path.name)]
            now[path.name] = begin + len(text)
    return NewIncidents(entries, now)


def _lines_from(path: Path, begin: int) -> bytes:
    """The whole lines of a file from a place on."""
    with open(path, "rb") as file:
        file.seek(begin)
        text = file.read()
    return text[: text.rfind(b"\n") + 1]


def _parsed(text: bytes, source: str) -> Iterator[dict[str, Any]]:
    """The incidents in lines; what is no incident, such as half a line, is passed over."""
    for line in text.splitlines():
        try:
            entry = parse_json_object(line, source=source, repair=True) if line.strip() else {}
        except JsonError:
            continue
        if isinstance(entry.get("kind"), str) and isinstance(entry.get("text"), str):
            yield entry


def told_as(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Equal for incidents of which one is enough: of one kind at one step, which all processes go through
    together, or in the same words."""
    step = entry.get("step")
    return str(entry.get("kind")), str(entry.get("text") if step is None else step)
