"""All runs of some folders, read as far as there is time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_audio.characters import shown
from stable_audio.interface.watch.runs import WatchedRun, find_runs

LOOK_THREADS = 8
"""Runs that are looked at once: over a mounted disk, most of the time is waiting."""


class Library:
    """The runs below some folders. Several threads may use one library.

    Args:
        folders: folders with runs, or runs.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [Path(folder) for folder in folders]
        self._runs: dict[str, WatchedRun] = {}
        self._lock = threading.Lock()

    def refresh(self, *, seconds: float = 0.5) -> bool:
        """Look at all runs, then read on for some time, the runs that changed last first.

        Returns:
            whether every row of every run has been read.
        """
        with self._lock:
            until = time.monotonic() + seconds
            self._find()
            with ThreadPoolExecutor(LOOK_THREADS) as threads:
                list(threads.map(WatchedRun.look, self._runs.values()))
            for run in sorted(self._runs.values(), key=lambda r: -r.changed_at):
                while time.monotonic() < until:
                    if not run.read_on():
                        break
            return all(run.metrics.complete for run in self._runs.values())

    def summaries(self) -> list[dict[str, Any]]:
        """What the list says about each run, the ones that changed last first."""
        with self._lock:
            runs = sorted(self._runs.values(), key=lambda run: -run.changed_at)
            return [run.summary() for run in runs]

    @contextmanager
    def run(self, name: str, *, seconds: float = 0.5) -> Iterator[WatchedRun]:
        """A run, of which more is read for some time first; nothing more is read while the context lasts.

        Raises:
            KeyError: there is no run of this name.
        """
        with self._lock:
            until = time.monotonic() + seconds
            run = self._runs[name]
            run.look()
            while run.read_whole() and time.monotonic() < until:
                pass
            yield run

    def folder(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            KeyError: there is no run of this name.
        """
        with self._lock:
            return self._runs[name].folder

    def _find(self) -> None:
        known = self._runs
        self._runs = {}
        for name, path in self._present():
            run = known.get(name)
            # Once a run is gone, one of another folder may have its name.
            if run is None or run.folder != path:
                run = WatchedRun(name, path)
            self._runs[name] = run

    def _present(self) -> Iterator[tuple[str, Path]]:
        taken: set[str] = set()
        known: set[Path] = set()
        for root in self.folders:
            for path in find_runs(root):
                if (real := path.resolve()) in known:
                    continue
                known.add(real)
                # Browsers cannot ask for a name that is not UTF-8.
                name = shown(root.resolve().name if path == root else path.relative_to(root).as_posix())
                if name in taken:
                    name = f"{shown(root.resolve().name)}/{name}"
                if name not in taken:
                    taken.add(name)
                    yield name, path
