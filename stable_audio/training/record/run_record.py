"""`run.json`: every start of a run, how it ended, and every incident in between."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import JsonError, read_json_object
from stable_audio.incidents import IncidentHandler
from stable_audio.training.record.further_incidents import OwnIncidents, new_incidents, told_as
from stable_audio.training.saving.folder import put_aside

log = logging.getLogger(__name__)

FIRST_INCIDENTS, LAST_INCIDENTS = 500, 500
"""Number of incidents that are kept in full, the first and the newest ones; those between are counted."""

READ = "read_of_further_processes"
"""Key of the record: how many bytes of the incidents of further processes are in it, by file."""

RECORD = "run.json"
"""Name of the record in the folder of a run."""

LOST = "record lost"
"""Kind of the incident that the record of earlier starts is gone."""


class RunRecord:
    """The record of a run, `{"starts": [...], "incidents": [...]}`, written whole at every change.

    Of very many incidents those between the first and the newest are left out; `further_incidents` is their
    number.

    What cannot be written, as on a full disk, is written with the next change; errors are logged once.

    The first process alone records. The others write their incidents to files of their own, which the first
    one takes over when it calls `gather`, and at every start and end.

    Args:
        path: the file, which an earlier start may have written.
        rank: number of this process among those of the run.
    """

    def __init__(self, path: Path, *, rank: int = 0) -> None:
        self.path, self.rank = path, rank
        self._content: dict[str, Any] | None = None
        self._failed = False
        self._lock = threading.RLock()  # checkpoints are written, and fail, in a thread of their own

    @property
    def enabled(self) -> bool:
        """Whether this process records."""
        return self.rank == 0

    def started(self, entry: Mapping[str, Any]) -> None:
        """Add a start, and the incident that the one before has not ended in order, if that is so."""

        def change(content: dict[str, Any]) -> None:
            content["starts"].append({**entry, "ended": None})

        self.gather()  # what the start before has left
        earlier = self.content["starts"][-1:]
        told = any(self.incidents_of(LOST))
        if not earlier and not told and self._continues(entry):
            text = f"{self.path.name} was gone when the run went on; what happened before is not in this one"
            self.incident({"time": _now(), "kind": LOST, "text": text})
        if earlier and isinstance(earlier[0], dict) and earlier[0].get("ended", "") is None:
            text = f"the run that started at {earlier[0].get('started')} was killed, or its machine went down"
            log.warning("%s", text)
            self.incident({"time": _now(), "kind": "killed", "text": text})
        self._change(change)

    def ended(self, outcome: Mapping[str, Any]) -> None:
        """Add how the last start has ended."""

        def change(content: dict[str, Any]) -> None:
            if content["starts"]:
                content["starts"][-1]["ended"] = {"time": _now(), **outcome}

        self.gather()
        self._change(change)

    def describe(self, **details: Any) -> None:
        """Add what became known of the last start after it was recorded."""

        def change(content: dict[str, Any]) -> None:
            if content["starts"]:
                content["starts"][-1].update(details)

        self._change(change)

    def incidents_of(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """The incidents of a kind that are in the record; of a further process none."""
        entries = (entry for entry in self.content["incidents"] if isinstance(entry, Mapping))
        return (entry for entry in entries if entry.get("kind") == kind)

    def incident(self, entry: Mapping[str, Any]) -> None:
        """Add an incident: {"time", "kind", "text", ...}."""

        self._change(lambda content: _keep(content, [entry]))

    def gather(self) -> bool:
        """Take over the incidents of further processes that are new; returns whether there are any.

        What several processes tell, such as a signal to all of them, is in the record once. A look at files
        that have not grown writes nothing.
        """
        if not self.enabled:
            return False
        with self._lock:
            stored = self.content.get(READ)
            before = stored if isinstance(stored, dict) else {}
            entries, read = new_incidents(self.path.parent, before)
            if read == before or not read:
                return False
            known = {told_as(entry) for entry in self.content["incidents"] if isinstance(entry, Mapping)}
            new: dict[tuple[str, str], dict[str, Any]] = {}
            for entry in entries:
                if told_as(entry) not in known:
                    new.setdefault(told_as(entry), entry)

            def change(content: dict[str, Any]) -> None:
                _keep(content, new.values())
                content[READ] = read

            self._change(change)
            return bool(new)

    @contextmanager
    def listening(self, early: Iterable[logging.LogRecord] = ()) -> Iterator[None]:
        """Record the incidents among the package's log records in this context; of a further process in its
        own file.

        Args:
            early: earlier log records.
        """
        keep = self.incident if self.enabled else OwnIncidents(self.path.parent, self.rank).add
        handler, package = IncidentHandler(keep), logging.getLogger("stable_audio")
        for record in early:
            handler.handle(record)
        package.addHandler(handler)
        try:
            yield
        finally:
            package.removeHandler(handler)

    @property
    def content(self) -> dict[str, Any]:
        """The record as it is now; that of an earlier start of the run is read at first use."""
        with self._lock:
            if self._content is None:
                self._content = self._stored()
            return self._content

    def _stored(self) -> dict[str, Any]:
        """The record of earlier starts; a file that cannot be read is put aside."""
        content, whole = _read(self.path)
        if whole or not self.enabled or not os.path.lexists(self.path):
            return content
        try:
            text = f"{self.path} was damaged and is now {put_aside(self.path).name}; a new record begins"
        except OSError as error:
            text = f"{self.path} is damaged and cannot be renamed ({error})"
        log.error("%s", text)
        content["incidents"].append({"time": _now(), "kind": LOST, "text": text})
        return content

    def _continues(self, entry: Mapping[str, Any]) -> bool:
        """Whether a start goes on from a checkpoint in the folder of the record."""
        source = entry.get("resumed_from")
        return source is not None and Path(source).resolve().is_relative_to(self.path.parent.resolve())

    def _change(self, change: Callable[[dict[str, Any]], None]) -> None:
        if not self.enabled:
            return
        with self._lock:
            change(self.content)
            try:
                with atomic_write(self.path) as temporary:
                    text = json.dumps(self.content, indent=2, default=str)
                    temporary.write_text(f"{text}\n", encoding="utf-8")
            except (OSError, ValueError, TypeError) as error:
                if not self._failed:
                    log.error("the record of the run was not written (%s); training continues", error)
                self._failed = True
            else:
                self._failed = False


def _keep(content: dict[str, Any], entries: Iterable[Mapping[str, Any]]) -> None:
    """Add incidents to a record, of which those between the first and the newest are left out."""
    kept = content["incidents"]
    kept.extend(dict(entry) for entry in entries)
    if (surplus := len(kept) - FIRST_INCIDENTS - LAST_INCIDENTS) > 0:
        del kept[FIRST_INCIDENTS : FIRST_INCIDENTS + surplus]
        content["further_incidents"] = content.get("further_incidents", 0) + surplus


def last_start(starts: Sequence[Any]) -> Mapping[str, Any] | None:
    """The last start of a record, if there is one that says with what options."""
    last = starts[-1] if starts else None
    return last if isinstance(last, Mapping) and isinstance(last.get("options"), Mapping) else None


def read_record(path: Path) -> dict[str, Any]:
    """The record at `path`; an empty one if there is none, or none that can be read."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """(record, whether it could be read whole)."""
    try:
        content = read_json_object(path)
    except (OSError, JsonError):
        content = {}
    empty: dict[str, Any] = {"starts": [], "incidents": []}
    lists = {name: value for name in empty if isinstance(value := content.get(name), list)}
    return {**content, **empty, **lists}, len(lists) == len(empty)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
