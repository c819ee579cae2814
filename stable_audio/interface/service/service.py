"""The jobs of a service, from a request to its end."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from stable_audio.audio.atomic import remove_leftovers
from stable_audio.checkpoints.run_adapters import newest_adapter
from stable_audio.inference.rendering.recipe import InputFile, file_digest
from stable_audio.interface.service.active import ActiveJob
from stable_audio.interface.service.checking import CheckedRequest, checked
from stable_audio.interface.service.errors import ServiceError, no_store
from stable_audio.interface.service.events import JobEvents
from stable_audio.interface.service.files import ResultFiles
from stable_audio.interface.service.metrics import ServiceMetrics
from stable_audio.interface.service.models import ServedModel, ServedModels
from stable_audio.interface.service.pool import RenderPool
from stable_audio.interface.service.prepare import ServedAdapter, by_name
from stable_audio.interface.service.records import JobRecord, new_id
from stable_audio.interface.service.request import GenerateRequest
from stable_audio.interface.service.settings import ServiceSettings
from stable_audio.interface.service.sounds import RequestSounds, StoredSound
from stable_audio.interface.service.store import JobStore
from stable_audio.interface.service.uploads import Uploads
from stable_audio.interface.service.waiting import WaitingJob, WaitingJobs

log = logging.getLogger(__name__)
T = TypeVar("T")

DATABASE, RESULTS, UPLOADS = "jobs.sqlite", "results", "uploads"
_CHECKERS = 2
_FILES_AT_ONCE = 16
"""Threads that read and write files: disks flush several in the time of one."""


class Service:
    """Takes requests, keeps their jobs, and passes them to the processes that render.

    Everything but `__init__` is called in one event loop.

    Args:
        settings: all of them.

    Raises:
        ValueError: an adapter that is none, or a folder whose database cannot be used.
        OSError: the folder cannot be written to.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings, self.limits = settings, settings.limits
        self.folder = settings.folder
        for name in (RESULTS, UPLOADS):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.files = ResultFiles(self.folder / RESULTS)
        self.adapters = {name: _served(path) for name, path in settings.adapters.items()}
        self.store = JobStore(self.folder / DATABASE)
        self.models = ServedModels([model.name for model in settings.models])
        self.metrics = ServiceMetrics()
        self.waiting = WaitingJobs()
        self.active: dict[str, ActiveJob] = {}
        self.draining = False
        self._database = ThreadPoolExecutor(1, "database")
        self._checkers = ThreadPoolExecutor(_CHECKERS, "checks")
        self.uploads = Uploads(self.folder / UPLOADS, self.store, self.limits, self.in_database)
        self.events = JobEvents(self)
        self.pool = RenderPool(
            settings, self.adapters, self.folder / RESULTS, self.waiting, self.active.__getitem__, self.events
        )

    @property
    def ready(self) -> bool:
        """Whether requests are served now."""
        return not self.draining and self.pool.ready and any(m.model for m in self.models.all.values())

    async def start(self) -> None:
        """Take up what an earlier process left, and start the processes."""
        files = ThreadPoolExecutor(_FILES_AT_ONCE, "files")
        asyncio.get_running_loop().set_default_executor(files)
        self.files.clear_scratch()
        remove_leftovers(self.folder / UPLOADS, seconds=0)
        await self.events.restore()
        self.uploads.decoder.start()
        self.pool.start()

    async def in_database(self, function: Callable[..., T], *values: Any) -> T:
        """Call a method of the store in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._database, function, *values)

    def keep(self, record: JobRecord) -> asyncio.Future[None]:
        """Write a job as it is now; a failure is logged."""
        loop = asyncio.get_running_loop()
        written = loop.run_in_executor(self._database, self.store.put, replace(record))
        written.add_done_callback(_tell_failure)
        return written

    async def submit(self, request: GenerateRequest, *, client: str, owner: str = "") -> ActiveJob:
        """Put a request into the queue.

        Args:
            client: for fairness.
            owner: who may see the job.

        Raises:
            ServiceError: what is wrong with it, or that there is no room at the moment.
        """
        self._check_room(client)
        served = self.models.named(request.model)
        result = await self.check(served, request.line(), owner)
        self._check_room(client)
        record = _record(request, served, result, client, owner)
        record.deadline = record.created + min(request.deadline or self.limits.deadline, self.limits.deadline)
        job = self.enqueue(record, result)
        try:
            await self.keep(record)
        except sqlite3.Error as error:
            self.cancel(record.id)
            raise no_store("jobs") from error
        self.pool.dispatch()
        return job

    async def check(self, served: ServedModel, line: Mapping[str, Any], owner: str) -> CheckedRequest:
        """Check the keys of a request in a thread."""
        sounds = RequestSounds(lambda id: self.sound(id, owner))
        chunked = self.settings.worker.chunked_decode

        def check() -> CheckedRequest:
            return checked(served, line, sounds, self.limits, chunked=chunked)

        return await asyncio.get_running_loop().run_in_executor(self._checkers, check)

    def enqueue(self, record: JobRecord, result: CheckedRequest, *, alone: bool = False) -> ActiveJob:
        """Put a checked job into the queue.

        Args:
            alone: render it by itself.
        """
        job = ActiveJob(record, result.sounds)
        self.active[record.id] = job
        loop = asyncio.get_running_loop()
        job.expiry = loop.call_later(max(0.0, record.deadline - time.time()), self.events.expire, job)
        key = None if alone else result.key
        self.waiting.add(WaitingJob(record.id, record.client, key, time.monotonic()))
        return job

    def _check_room(self, client: str) -> None:
        if self.draining:
            raise self.refusal(503, "the service is stopping", retry_after=10)
        if len(self.waiting) >= self.limits.queue:
            raise self.refusal(503, f"{len(self.waiting)} jobs are waiting, as many as can")
        if (own := self.waiting.of_client(client)) >= self.limits.of_client:
            raise self.refusal(429, f"{own} jobs of this client are waiting, as many as can")

    def refusal(self, status: int, detail: str, *, retry_after: float | None = None) -> ServiceError:
        """A counted refusal, by default until about a quarter of the queue is done."""
        self.metrics.refused.labels(str(status)).inc()
        wait = self.metrics.seconds_for(len(self.waiting) / 4, len(self.pool.processes))
        return ServiceError(status, detail, retry_after=wait if retry_after is None else retry_after)

    def sound(self, id: str, owner: str) -> StoredSound:
        """The sound of an upload or of a finished job. Called in any thread.

        Raises:
            ValueError: there is none that this owner can use.
        """
        if (upload := self.store.upload(id)) is not None and upload.owner == owner:
            return StoredSound(str(self.uploads.path(id)), upload.digest)
        job = self.store.job(id)
        if job is not None and job.owner == owner and self.files.exists(id):
            path = self.files.sound(id)
            return StoredSound(str(path), file_digest(path))
        raise ValueError(f"there is no sound {id}: it is the id of an upload or of a job that is done")

    async def job(self, id: str, owner: str) -> JobRecord:
        """A job of an owner, active or not.

        Raises:
            ServiceError: 404.
        """
        if id in self.active:
            record: JobRecord | None = self.active[id].record
        else:
            record = await self.in_database(self.store.job, id)
        if record is None or record.owner != owner:
            raise ServiceError(404, "there is no such job")
        return record

    def cancel(self, id: str, reason: str = "cancelled by its client") -> bool:
        """End a job that has not ended; whether there was something to end."""
        job = self.active.get(id)
        if job is None or job.record.ended:
            return False
        self.events.finish(job, "cancelled", error=reason, status=409)
        return True

    async def forget(self, record: JobRecord) -> None:
        """Remove a job and its result; one at work is cancelled."""
        self.cancel(record.id)
        await self.in_database(self.store.forget, record.id)
        await asyncio.to_thread(self.files.remove, record.id)

    async def drain(self, seconds: float) -> None:
        """Take nothing more, and wait for what is at work; what waits is kept for the next start.

        Args:
            seconds: after which what is at work is given up, too.
        """
        self.draining = True
        self.pool.paused = True
        self.events.turn_away([job for job in self.active.values() if job.record.state == "queued"])
        ends = time.monotonic() + seconds
        while self.pool.running and time.monotonic() < ends:
            await asyncio.sleep(0.05)
        self.events.turn_away([*self.active.values()])

    async def stop(self) -> None:
        """End the processes and close the database."""
        self.draining = True
        self.pool.paused = True
        self.events.turn_away([*self.active.values()])
        await asyncio.to_thread(self.pool.stop)
        await asyncio.to_thread(self.uploads.decoder.stop)
        self._checkers.shutdown()
        self._database.shutdown()
        self.store.close()


def _tell_failure(written: asyncio.Future[None]) -> None:
    if not written.cancelled() and (error := written.exception()) is not None:
        log.error("a job was not written: %s", error)


def _served(path: str) -> ServedAdapter:
    file = newest_adapter(path)
    return ServedAdapter(str(Path(path).expanduser().resolve()), by_name(InputFile.of(file)))


def _record(
    request: GenerateRequest, served: ServedModel, result: CheckedRequest, client: str, owner: str
) -> JobRecord:
    texts: Sequence[Any] = [*(result.recipe.conditioning or {}).values()]
    first = next((text for text in texts if isinstance(text, str) and text.strip()), "")
    return JobRecord(
        id=new_id(),
        model=served.name,
        line=dict(result.line),
        owner=owner,
        client=client,
        waits=not request.job,
        format=request.format,
        subtype=request.subtype,
        title=request.title or first[:200],
        steps=int(result.recipe.sampling["steps"]),
        seconds=result.recipe.seconds,
        recipe=result.recipe.values(),
        digest=result.recipe.digest(),
    )
