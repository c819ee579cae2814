"""The scalars of a run as a table in its folder, which stays whole whatever a crash does to it."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from stable_audio.audio.atomic import atomic_write
from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.saving.folder import make_way, put_aside
from stable_audio.wording import plural

log = logging.getLogger(__name__)


class CSVLogger(RunLogger):
    """`metrics.csv` in the run's folder: one row per logged step, with a column per scalar.

    Further scalars of the last logged step, such as those of validation, are added to its row. Only that row
    is in memory; the earlier ones are in the file, which is copied when a new column appears.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.path = self.folder / "metrics.csv"
        self._columns = ["step"]
        self._last: dict[str, str] = {}
        self._last_at = self._end = 0
        self._damaged = 0
        make_way(self.path)
        resumes = self.resumed_at > 0 and self.path.is_file()
        if resumes:
            self._columns = self._header()
        self._rewrite(self._rows(self.resumed_at) if resumes else ())
        if self._damaged:
            log.warning("%s: %s damaged and removed", self.path, plural(self._damaged, "line", "were"))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        row = {"step": str(step), **{k: f"{v:.8g}" for k, v in values.items()}}
        same_step = self._last.get("step") == row["step"]
        row = {**self._last, **row} if same_step else row
        new = [k for k in row if k not in self._columns]
        if new or not self.path.is_file():
            before = self._rows(step - 1)
            self._columns = [*self._columns, *new]
            self._rewrite(itertools.chain(before, [row]))
            return
        begin, line = self._last_at if same_step else self._end, self._line(row)
        with open(self.path, "rb+") as file:
            file.seek(begin)
            file.write(line)
            file.truncate()
        # Not before, so that the next write overwrites what a failed one has left behind.
        self._last, self._last_at, self._end = row, begin, begin + len(line)

    def rewind(self, step: int) -> None:
        self._last = {}
        self._rewrite(self._rows(step))

    def _rows(self, last_step: int) -> Iterator[dict[str, str]]:
        """The rows of the file up to a step, one by one."""
        if not self.path.is_file():
            return
        self._damaged = 0
        with open(self.path, "rb") as file:
            lines = self._text(file)
            columns = _names(lines)
            for line in lines:
                cells = line.rstrip("\r\n").split(",")
                if len(cells) != len(columns) or not _is_row(cells):
                    self._damaged += 1
                elif int(cells[0]) <= last_step:
                    yield dict(zip(columns, cells))

    def _header(self) -> list[str]:
        """The columns of the file. A file that is not ours is renamed."""
        with open(self.path, "rb") as file:
            columns = _names(self._text(file))
        if columns[:1] == ["step"]:
            return columns
        log.warning(
            "%s has no column 'step' and is now %s; a new one begins", self.path, put_aside(self.path)
        )
        return self._columns

    def _text(self, file: BinaryIO) -> Iterator[str]:
        """The lines of the file, without those that a crash has filled with zeros or cut in the middle."""
        for line in file:
            if b"\0" in line or not line.endswith(b"\n"):
                self._damaged += 1
            else:
                yield line.decode("utf-8", errors="replace")

    def _rewrite(self, rows: Iterable[dict[str, str]]) -> None:
        last, begin = self._last, self._last_at
        with atomic_write(self.path) as temporary, open(temporary, "wb") as file:
            file.write(self._line({name: name for name in self._columns}))
            for row in rows:
                last, begin = row, file.tell()
                file.write(self._line(row))
            end = file.tell()
        self._last, self._last_at, self._end = last, begin, end

    def _line(self, row: Mapping[str, str]) -> bytes:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerow(row)
        return text.getvalue().encode()


def _names(lines: Iterator[str]) -> list[str]:
    """The names in the first of the lines; none if a crash has damaged it."""
    try:
        return next(csv.reader(lines), [])
    except csv.Error:
        return []


def _is_row(cells: Sequence[str]) -> bool:
    """Whether the step is a whole number, and every other cell a number or nothing."""
    number = re.compile(r"([-+]?(nan|inf|[\d.]+(e[-+]?\d+)?))?")
    return bool(re.fullmatch(r"\d+", cells[0])) and all(number.fullmatch(cell) for cell in cells)
