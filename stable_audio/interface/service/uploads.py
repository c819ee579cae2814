"""Sounds that clients send."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from stable_audio.interface.service.decoder import SoundDecoder
from stable_audio.interface.service.decoding import DecodeRequest
from stable_audio.interface.service.errors import ServiceError, no_store
from stable_audio.interface.service.records import UploadRecord, new_id
from stable_audio.interface.service.settings import Limits
from stable_audio.interface.service.store import JobStore

log = logging.getLogger(__name__)

SUFFIXES = ("wav", "flac", "mp3", "ogg", "oga", "opus", "aif", "aiff", "m4a", "mp4", "webm")
_CHUNK = 1 << 20


class Uploads:
    """Decodes and keeps what clients send; see `JobStore`.

    Args:
        folder: where the decoded sounds are.
        store: where their records are.
        limits: how large and how many.
        in_database: calls a method of the store in its thread.
    """

    def __init__(
        self, folder: Path, store: JobStore, limits: Limits, in_database: Callable[..., Awaitable[Any]]
    ) -> None:
        self._folder, self._store, self._limits, self._in_database = folder, store, limits, in_database
        self.decoder = SoundDecoder(limits.decode_seconds)

    def path(self, id: str) -> Path:
        """The decoded sound of an upload."""
        return self._folder / f"{id}.wav"

    async def add(self, file: BinaryIO, name: str, owner: str) -> UploadRecord:
        """Take a file.

        Args:
            name: of the file at the client, of which only the suffix counts.

        Raises:
            ServiceError: 413 if it is too large, 422 if it is no sound, 503 if it cannot be stored.
        """
        id = new_id()
        raw = self._folder / f".{id}.partial.{_suffix(name)}"
        try:
            with _storing():
                await asyncio.to_thread(self._copy, file, raw)
            request = DecodeRequest(str(raw), str(self.path(id)), self._limits.upload_seconds)
            sound = await self.decoder.decode(request)
        finally:
            raw.unlink(missing_ok=True)
        shown = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", name)[:200]
        record = UploadRecord(
            id, owner, shown, sound.digest, time.time(), sound.seconds, sound.sample_rate, sound.channels
        )
        try:
            with _storing():
                await self._in_database(self._store.put_upload, record)
        except ServiceError:
            self.path(id).unlink(missing_ok=True)
            raise
        return record

    async def find(self, id: str, owner: str) -> UploadRecord:
        """An upload of an owner.

        Raises:
            ServiceError: 404.
        """
        record: UploadRecord | None = await self._in_database(self._store.upload, id)
        if record is None or record.owner != owner:
            raise ServiceError(404, "there is no such upload")
        return record

    async def remove(self, id: str) -> None:
        """Remove an upload and its sound."""
        await self._in_database(self._store.forget_upload, id)
        await asyncio.to_thread(self.path(id).unlink, missing_ok=True)

    async def tidy(self) -> None:
        """Remove the oldest beyond those that are kept."""
        for id in await self._in_database(self._store.surplus_uploads, self._limits.uploads):
            await self.remove(id)

    def _copy(self, file: BinaryIO, target: Path) -> None:
        most, size = int(self._limits.upload_megabytes * 1e6), 0
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if size > most:
                    raise ServiceError(413, f"an upload has at most {self._limits.upload_megabytes:g} MB")
                written.write(chunk)


@contextmanager
def _storing() -> Iterator[None]:
    """Turn what keeps files and records from being stored into a ServiceError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        log.error("an upload was not stored: %s", error)
        raise no_store("uploads") from error


def _suffix(name: str) -> str:
    """The suffix, by which readers choose the format; `wav` where it is none of a sound."""
    suffix = name.rpartition(".")[2].lower()
    return suffix if suffix in SUFFIXES else "wav"
