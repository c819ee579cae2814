"""The runs of a folder, and what is read of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_audio.interface.watch.metrics import Metrics
from stable_audio.interface.watch.state import Signs, is_this_machine, log_end, start_in, state_of
from stable_audio.training.record.run_record import read_record

MARKS = ("run.json", "metrics.csv")
"""Files that make a folder a run."""

DEPTH = 4
"""Levels of folders in which runs are looked for."""

SPARK, SPARK_POINTS = "train/loss", 50
SPEED, DATA_WAIT = "speed/steps_per_second", "speed/data_wait_share"


def find_runs(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders of runs in `folder`, itself included; nothing is looked for inside a run.

    Folders that cannot be read are passed over.
    """
    try:
        with os.scandir(folder) as entries:
            members = sorted(entries, key=lambda entry: entry.name)
            if any(entry.name in MARKS and entry.is_file() for entry in members):
                yield folder
                return
            inner = [entry.path for entry in members if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return
    if depth > 0:
        for path in inner:
            yield from find_runs(Path(path), depth - 1)


class WatchedRun:
    """What is read of one run.

    Attributes:
        name: its name on the page.
        folder: its folder.
        metrics: what the list says of its metrics.
        whole: all of its metrics, once somebody asked for them.
        failure: why its metrics could not be read the last time, or "".
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.metrics = Metrics(folder / "metrics.csv", listed_columns)
        self.whole: Metrics | None = None
        self.failure = ""
        self._times: tuple[int, ...] = ()
        self._changed: float | None = None
        self._start: dict[str, Any] = {}
        self._incidents: list[dict[str, Any]] = []
        self._further = 0
        self._log = ""

    def look(self) -> None:
        """Read what is short: the start, the end of the log, and a glance at the metrics."""
        times = tuple(_changed_at(self.folder / name) for name in ("run.json", "log.txt", "metrics.csv"))
        if times == self._times:
            return
        if self._times:
            self._changed = time.monotonic()
        self._times = times
        record = read_record(self.folder / "run.json")
        self._start = start_in(record)
        self._incidents = [entry for entry in record["incidents"] if isinstance(entry, dict)]
        further = record.get("further_incidents")
        self._further = further if isinstance(further, int) else 0
        self._log = log_end(self.folder / "log.txt")
        self.failure = ""
        self._guarded(self.metrics.glance)
        if self.whole is not None:
            self._guarded(self.whole.glance)

    def read_on(self) -> bool:
        """Read more rows of what is listed; returns whether there are more."""
        return bool(self._guarded(self.metrics.read))

    def read_whole(self) -> bool:
        """Read more rows of all columns; returns whether there are more."""
        if self.whole is None:
            self.whole = Metrics(self.folder / "metrics.csv")
            self._guarded(self.whole.glance)
        return bool(self._guarded(self.whole.read))

    def _guarded(self, read: Callable[[], object]) -> object:
        try:
            return read()
        except OSError as error:
            self.failure = str(error)
            return None

    @property
    def changed_at(self) -> float:
        """When a file of the run changed, in seconds of the clock of its disk; 0 without one."""
        return max(self._times, default=0) / 1e9

    @property
    def start(self) -> Mapping[str, Any]:
        """The last entry of `run.json`; empty without one."""
        return self._start

    @property
    def incidents(self) -> Sequence[Mapping[str, Any]]:
        """What befell the run, all starts together: `time`, `kind`, `text` and more."""
        return self._incidents

    @property
    def log(self) -> str:
        """The end of the log."""
        return self._log

    def _signs(self) -> Signs:
        silent = max(0.0, time.time() - self.changed_at)
        if self._changed is not None:  # the clock of a mounted disk may be another one
            silent = min(silent, time.monotonic() - self._changed)
        speed, apart = self.metrics.latest.get(SPEED), self.metrics.rows_apart
        return Signs(
            start=self._start,
            log=self._log,
            silent=silent,
            step=self.metrics.step,
            line_seconds=apart / speed if speed and apart and speed > 0 else None,
            same_machine=is_this_machine(self._start),
        )

    def summary(self) -> dict[str, Any]:
        """What the list of runs says about it."""
        signs, metrics = self._signs(), self.metrics
        latest = metrics.latest
        state = state_of(signs)
        spark = metrics.curves.means(SPARK, SPARK_POINTS)
        validated = validation_column(metrics.columns)
        best = [] if validated is None else [metrics.curves.least(validated), latest.get(validated)]
        return {
            "name": self.name,
            "state": state.name,
            "told": self.failure or state.told,
            "silent": round(signs.silent, 1),
            "incidents": len(self._incidents) + self._further,
            "started": self._start.get("started"),
            "step": metrics.step,
            "max_steps": signs.max_steps,
            "loss": spark[-1] if spark else latest.get(SPARK),
            "validation": None if validated is None else latest.get(validated),
            "best": min((value for value in best if value is not None), default=None),
            "speed": latest.get(SPEED),
            "data_wait": latest.get(DATA_WAIT),
            "spark": spark,
            "complete": metrics.complete,
            "changes": metrics.changes,
        }


def listed_columns(columns: Sequence[str]) -> list[str]:
    """The columns of which the list of runs tells."""
    listed = (SPARK, SPEED, DATA_WAIT, validation_column(columns))
    return [name for name in columns if name in listed]


def validation_column(columns: Sequence[str]) -> str | None:
    """The scalar of validation that stands for the others."""
    scalars = [name for name in columns if name.startswith("val/")]
    return next(
        (n for n in ("val/avg_loss", "val/stft", "val/mel") if n in scalars), next(iter(scalars), None)
    )


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
