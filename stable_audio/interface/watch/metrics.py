"""Read the `metrics.csv` of a run while it grows: a glance at all of it first, then every row once."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stable_audio.interface.watch.curves import Curves
from stable_audio.interface.watch.rows import header_of, parsed

GLANCES = 40
"""Places of a large file that are read at first."""

GLANCE_BYTES, TAIL_BYTES, CHUNK_BYTES = 2048, 8192, 2**20
_MARK_BYTES = 64


@dataclass(frozen=True)
class _Mark:
    """The bytes right before the place up to which a file was read: it has changed if they have."""

    place: int
    content: bytes


class Metrics:
    """The values of one `metrics.csv`, of which each call reads what is new.

    The file may be cut off in a line, be rewritten with other columns, or vanish. Its last line may still
    change, since validation adds to it, so it is in `latest` and `all_curves` alone until a next one follows.

    Attributes:
        columns: names of the columns that are read; empty until there is a file with a header.
        rows_apart: steps between the last two rows; None without two.
        changes: how often something new was read.

    Args:
        path: the file.
        choose: the columns to read, of all but the step; the fewer the faster. None: all.
    """

    def __init__(self, path: Path, choose: Callable[[Sequence[str]], Sequence[str]] | None = None) -> None:
        self.path, self._choose = path, choose
        self.changes = 0
        self._seen: tuple[int, int] | None = None
        self._clear(())

    def _clear(self, names: tuple[str, ...], header: bytes = b"") -> None:
        columns = names if self._choose is None else tuple(self._choose(names))
        self.columns, self._header = columns, header
        self._cells, self._keep = len(names) + 1, [0, *(names.index(name) + 1 for name in columns)]
        self._exact = Curves(columns)
        self._rough: Curves | None = None  # of the rows that were glanced at, until all have been read
        # What was glanced at, what was read for good, and the end of the file, which is read anew each time.
        self._noted_rough, self._noted, self._noted_last = (_Latest(columns) for _ in range(3))
        self.rows_apart: int | None = None
        self._at_end = False
        self._last = np.empty((0, len(columns) + 1))
        self._mark = _Mark(len(header), header[-_MARK_BYTES:])

    def glance(self) -> None:
        """Read the end of the file and, if nothing of it was read before, parts all over it.

        Raises:
            OSError: the file cannot be read.
        """
        size = self._look()
        if size is None:
            return
        with open(self.path, "rb") as file:
            if not self._is_same(file):
                self._restart(file)
            if not self.columns:
                return
            if self._mark.place == len(self._header) and self._rough is None:
                self._read_parts(file, size)
            self._read_tail(file, size)
        self.changes += 1

    def read(self) -> bool:
        """Read the next rows, a megabyte at most; returns whether there are more.

        Raises:
            OSError: the file cannot be read.
        """
        if self.complete:
            return False
        with open(self.path, "rb") as file:
            if not self._is_same(file):
                self._restart(file)
            if not self.columns:
                return False
            begin = self._mark.place
            file.seek(begin)
            text = file.read(CHUNK_BYTES)
        at_the_end = len(text) < CHUNK_BYTES
        end = _before_last_line(text) if at_the_end else text.rfind(b"\n") + 1
        if end == 0 and not at_the_end:
            end = len(text)  # a line of a megabyte is no row
        rows = parsed(text[:end], self._cells, self._keep)
        self._exact.add(rows[:, 0].astype(np.int64), rows[:, 1:])
        self._noted.note(rows)
        content = text[max(0, end - _MARK_BYTES) : end] if end else self._mark.content
        self._mark = _Mark(begin + end, content)
        self._at_end = at_the_end
        if at_the_end:
            self._rough, self._noted_rough = None, _Latest(self.columns)
        self.changes += 1
        return not at_the_end

    @property
    def complete(self) -> bool:
        """Whether every row has been read; so it is of a file without columns."""
        return self._at_end or not self.columns

    @property
    def latest(self) -> dict[str, float]:
        """The last value of each column that has one."""
        sides = self._noted_rough.values, self._noted.values, self._noted_last.values
        return {
            name: max((side[name] for side in reversed(sides) if name in side), key=lambda v: v[0])[1]
            for name in self.columns
            if any(name in side for side in sides)
        }

    @property
    def step(self) -> int | None:
        """The last step; None without rows."""
        sides = (self._noted_rough, self._noted, self._noted_last)
        return max((side.step for side in sides if side.step is not None), default=None)

    @property
    def curves(self) -> Curves:
        """Means over steps without the last line; of rows from all over the file until it has been read."""
        return self._exact if self._rough is None else self._rough

    def all_curves(self) -> Curves:
        """The curves with the last line."""
        curves = copy.deepcopy(self.curves)
        curves.add(self._last[:, 0].astype(np.int64), self._last[:, 1:])
        return curves

    def _look(self) -> int | None:
        """The size of the file if it has changed since the last look, else None; a file that is gone is
        forgotten."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            if self.columns:
                self._clear(())
                self.changes += 1
            self._seen = None
            return None
        seen = (status.st_size, status.st_mtime_ns)
        if seen == self._seen:
            return None
        self._seen = seen
        self._at_end = False
        return status.st_size

    def _is_same(self, file: BinaryIO) -> bool:
        """Whether the file goes on as it was read so far."""
        if not self._header or file.read(len(self._header)) != self._header:
            return False
        file.seek(self._mark.place - len(self._mark.content))
        return file.read(len(self._mark.content)) == self._mark.content

    def _restart(self, file: BinaryIO) -> None:
        file.seek(0)
        line = file.readline(CHUNK_BYTES)
        names = header_of(line) if line.endswith(b"\n") else None
        self._clear(names[1:], line) if names else self._clear(())

    def _read_parts(self, file: BinaryIO, size: int) -> None:
        """Rows at equal distances all over the file."""
        length = size - len(self._header)
        if length <= GLANCES * GLANCE_BYTES:
            return  # the first `read` takes it whole
        parts = []
        for number in range(GLANCES):
            file.seek(len(self._header) + number * length // GLANCES)
            text = file.read(GLANCE_BYTES)
            parts.append(text[text.find(b"\n") + 1 : text.rfind(b"\n") + 1])
        rows = parsed(b"".join(parts), self._cells, self._keep)
        self._rough = Curves(self.columns)
        self._rough.add(rows[:, 0].astype(np.int64), rows[:, 1:])
        self._noted_rough.note(rows)

    def _read_tail(self, file: BinaryIO, size: int) -> None:
        """The last values of all columns; the last line counts if it is whole."""
        begin = max(len(self._header), size - TAIL_BYTES)
        file.seek(begin)
        text = file.read(size - begin)
        first = 0 if begin == len(self._header) else text.find(b"\n") + 1
        rows = parsed(text[first : text.rfind(b"\n") + 1], self._cells, self._keep)
        self._noted_last = _Latest(self.columns)
        self._noted_last.note(rows)
        self._last = rows[-1:]
        if len(rows) > 1:
            self.rows_apart = int(rows[-1, 0] - rows[-2, 0])


class _Latest:
    """The last value of each column, with its step."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.values: dict[str, tuple[int, float]] = {}
        self.step: int | None = None

    def note(self, rows: np.ndarray) -> None:
        """Take the values of rows, with the step first, unless those of later steps are known."""
        if len(rows) == 0:
            return
        self.step = max(int(rows[-1, 0]), self.step or 0)
        measured = np.isfinite(rows[:, 1:])
        last = len(rows) - 1 - measured[::-1].argmax(0)
        for place, name in enumerate(self.columns):
            if measured[last[place], place]:
                value = (int(rows[last[place], 0]), float(rows[last[place], place + 1]))
                self.values[name] = max(value, self.values.get(name, value), key=lambda v: v[0])


def _before_last_line(text: bytes) -> int:
    """Where the last whole line begins, or 0."""
    end = text.rfind(b"\n")
    return text.rfind(b"\n", 0, end) + 1 if end > 0 else 0
