"""Progress of a job as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from stable_audio.interface.service.records import JobRecord
from stable_audio.interface.service.service import Service
from stable_audio.interface.service.views import job_view

_AT_MOST_EVERY = 0.1
_SIGN_OF_LIFE = 15.0


async def followed(service: Service, record: JobRecord) -> AsyncIterator[str]:
    """Events of a job until it has ended, or the service stops: at most ten a second, the newest state each.

    A client that reads slowly misses states, not the last one.
    """
    job = service.active.get(record.id)
    while True:
        # Before the event goes out, which takes as long as the client takes to read it.
        last = job is None or record.ended or service.active.get(record.id) is not job
        version = 0 if job is None else job.version
        yield _event(service, record)
        if job is None or last:
            return
        while not await job.news(version, _SIGN_OF_LIFE):
            yield ": still here\n\n"
        if not record.ended:
            await asyncio.sleep(_AT_MOST_EVERY)


def _event(service: Service, record: JobRecord) -> str:
    return f"event: job\ndata: {job_view(record, service.waiting.position).model_dump_json()}\n\n"
