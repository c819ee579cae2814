"""Jobs and uploads in SQLite: what clients asked for survives the process."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_audio.interface.service.records import ENDED, JobRecord, UploadRecord

VERSION = 1
_JSON = ("line", "result", "recipe")
_BOOL = ("waits", "starred")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, model TEXT, line TEXT, owner TEXT, client TEXT, waits INTEGER, format TEXT,
    subtype TEXT, deadline REAL, created REAL, started REAL, finished REAL, state TEXT, error TEXT,
    status INTEGER, attempts INTEGER, step INTEGER, steps INTEGER, result TEXT, recipe TEXT, digest TEXT,
    starred INTEGER, title TEXT, seconds REAL
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_created ON jobs (owner, created);
CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state);
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, owner TEXT, name TEXT, digest TEXT, created REAL, seconds REAL,
    sample_rate INTEGER, channels INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS uploads_created ON uploads (created);
PRAGMA user_version = {VERSION};
"""
_JOB = [f.name for f in dataclasses.fields(JobRecord)]
_UPLOAD = [f.name for f in dataclasses.fields(UploadRecord)]


class JobStore:
    """The database of a service. Its methods may be called from any thread.

    Args:
        path: its file; it is made if it is not there.

    Raises:
        ValueError: the file is no database, or one of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise ValueError(f"{path}: was written by a newer version; choose another folder with --out")
            # A killed process loses nothing that was committed; only a power cut could.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: is no database of jobs ({error}); move it away") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def put(self, job: JobRecord) -> None:
        """Write a job, new or changed."""
        values = [_stored(job, name) for name in _JOB]
        self._run(f"INSERT OR REPLACE INTO jobs ({', '.join(_JOB)}) VALUES ({_marks(_JOB)})", values)

    def job(self, id: str) -> JobRecord | None:
        """The job of this identifier."""
        rows = self._run("SELECT * FROM jobs WHERE id = ?", [id])
        return _job(rows[0]) if rows else None

    def unfinished(self) -> list[JobRecord]:
        """Jobs that have not ended, in the order in which they came."""
        rows = self._run(f"SELECT * FROM jobs WHERE state NOT IN ({_marks(ENDED)}) ORDER BY created", ENDED)
        return [_job(row) for row in rows]

    def jobs(
        self,
        owner: str,
        *,
        search: str = "",
        state: str | None = None,
        starred: bool | None = None,
        model: str | None = None,
        before: float | None = None,
        limit: int = 50,
    ) -> list[JobRecord]:
        """The jobs of an owner, the newest first.

        Args:
            search: words, each of which the title or the request contains.
            state: only those in this state.
            starred: only those that are starred, or are not.
            model: only those of this model.
            before: only those created before this time.
            limit: at most so many.
        """
        where, values = ["owner = ?"], [owner]
        for word in search.split():
            where.append("(title LIKE ? ESCAPE '\\' OR line LIKE ? ESCAPE '\\')")
            # Requests are stored as JSON in ASCII.
            values += [_like(word), _like(json.dumps(word)[1:-1])]
        for name, value in (("state", state), ("starred", starred), ("model", model)):
            if value is not None:
                where.append(f"{name} = ?")
                values.append(value)  # type: ignore[arg-type]
        if before is not None:
            where.append("created < ?")
            values.append(before)  # type: ignore[arg-type]
        text = f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC LIMIT ?"
        return [_job(row) for row in self._run(text, [*values, limit])]

    def forget(self, id: str) -> None:
        """Remove a job."""
        self._run("DELETE FROM jobs WHERE id = ?", [id])

    def surplus(self, limit: int) -> list[str]:
        """Identifiers of the ended jobs that are not starred, but for the newest `limit`."""
        text = (
            f"SELECT id FROM jobs WHERE starred = 0 AND state IN ({_marks(ENDED)}) "
            "ORDER BY created DESC LIMIT -1 OFFSET ?"
        )
        return [row["id"] for row in self._run(text, [*ENDED, limit])]

    def put_upload(self, upload: UploadRecord) -> None:
        """Write an upload."""
        values = [getattr(upload, name) for name in _UPLOAD]
        self._run(f"INSERT INTO uploads ({', '.join(_UPLOAD)}) VALUES ({_marks(_UPLOAD)})", values)

    def upload(self, id: str) -> UploadRecord | None:
        """The upload of this identifier."""
        rows = self._run("SELECT * FROM uploads WHERE id = ?", [id])
        return UploadRecord(**dict(rows[0])) if rows else None

    def uploads(self, owner: str, limit: int = 50) -> list[UploadRecord]:
        """The uploads of an owner, the newest first."""
        text = "SELECT * FROM uploads WHERE owner = ? ORDER BY created DESC LIMIT ?"
        return [UploadRecord(**dict(row)) for row in self._run(text, [owner, limit])]

    def forget_upload(self, id: str) -> None:
        """Remove an upload."""
        self._run("DELETE FROM uploads WHERE id = ?", [id])

    def surplus_uploads(self, limit: int) -> list[str]:
        """Identifiers of the uploads but for the newest `limit`."""
        rows = self._run("SELECT id FROM uploads ORDER BY created DESC LIMIT -1 OFFSET ?", [limit])
        return [row["id"] for row in rows]

    def _run(self, text: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(text, list(values)).fetchall()


def _marks(items: Sequence[Any]) -> str:
    return ", ".join("?" * len(items))


def _like(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    return f"%{escaped}%"


def _stored(job: JobRecord, name: str) -> Any:
    value = getattr(job, name)
    return json.dumps(value) if name in _JSON and value is not None else value


def _job(row: sqlite3.Row) -> JobRecord:
    values = dict(row)
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    return JobRecord(**{**values, **{name: bool(values[name]) for name in _BOOL}})
