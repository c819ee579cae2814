"""Jobs: what becomes of them, their sounds, and the history that they are."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.files import Format, Subtype
from stable_audio.interface.service.following import followed
from stable_audio.interface.service.pictures import peaks_of, spectrogram_of
from stable_audio.interface.service.records import JobRecord, JobState
from stable_audio.interface.service.request import parse_body
from stable_audio.interface.service.routes.common import (
    BINARY,
    RANGES,
    SOUND,
    Height,
    Parts,
    Width,
    check_subtype,
    client_of,
    in_thread,
    json_body,
    problems,
    recipe_of,
    service_of,
    sound_of,
)
from stable_audio.interface.service.service import Service
from stable_audio.interface.service.views import JobChange, JobList, JobView, Peaks, job_view

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_SOUNDS: dict[int | str, dict[str, Any]] = {
    200: {"content": SOUND},
    **RANGES,
    **problems(404, 409),
}


async def _done(service: Service, id: str, owner: str) -> JobRecord:
    record = await service.job(id, owner)
    if record.state != "done":
        raise ServiceError(409, f"the job has no sound: it is {record.state}")
    return record


@router.get("", summary="History, the newest first", responses=problems())
async def jobs(
    request: Request,
    search: Annotated[str, Query(max_length=500, description="words of the title or the request")] = "",
    state: JobState | None = None,
    starred: bool | None = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    before: Annotated[float | None, Query(description="only jobs created before this time")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> JobList:
    service, owner = service_of(request), client_of(request).owner
    rows = await service.in_database(
        lambda: service.store.jobs(
            owner, search=search, state=state, starred=starred, model=model, before=before, limit=limit
        )
    )
    current = [service.active[row.id].record if row.id in service.active else row for row in rows]
    goes_on = rows[-1].created if len(rows) == limit else None
    position = service.waiting.positions().get  # of all at once
    return JobList(jobs=[job_view(record, position) for record in current], before=goes_on)


@router.get("/{id}", summary="A job", responses=problems(404))
async def job(request: Request, id: str) -> JobView:
    service = service_of(request)
    return job_view(await service.job(id, client_of(request).owner), service.waiting.position)


@router.patch(
    "/{id}",
    summary="Star or name a job",
    responses=problems(404),
    openapi_extra={"requestBody": json_body(JobChange)},
)
async def change(request: Request, id: str) -> JobView:
    service = service_of(request)
    values = parse_body(await request.body(), JobChange)
    record = await service.job(id, client_of(request).owner)
    if values.starred is not None:
        record.starred = values.starred
    if values.title is not None:
        record.title = values.title
    await service.keep(record)
    return job_view(record, service.waiting.position)


@router.delete("/{id}", summary="Remove a job and its sound", status_code=204, responses=problems(404))
async def remove(request: Request, id: str) -> Response:
    service = service_of(request)
    await service.forget(await service.job(id, client_of(request).owner))
    return Response(status_code=204)


@router.post("/{id}/cancel", summary="Stop a job", responses=problems(404))
async def cancel(request: Request, id: str) -> JobView:
    """A job that has ended stays as it is. The device is free at the next sampling step."""
    service = service_of(request)
    record = await service.job(id, client_of(request).owner)
    service.cancel(id)
    return job_view(record, service.waiting.position)


@router.get(
    "/{id}/events",
    summary="Progress, as server-sent events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "events `job`, each a job as JSON", "content": {"text/event-stream": {}}},
        **problems(404),
    },
)
async def events(request: Request, id: str) -> StreamingResponse:
    service = service_of(request)
    record = await service.job(id, client_of(request).owner)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(followed(service, record), media_type="text/event-stream", headers=headers)


@router.get("/{id}/audio", summary="The sound", response_class=FileResponse, responses=_SOUNDS)
async def audio(
    request: Request,
    id: str,
    format: Annotated[Format | None, Query(description="default: that of the request")] = None,
    subtype: Annotated[Subtype | None, Query(description="sample format of wav and flac")] = None,
    download: Annotated[bool, Query(description="as a file to save")] = False,
) -> FileResponse:
    service = service_of(request)
    record = await _done(service, id, client_of(request).owner)
    own = record.subtype if format in (None, record.format) else None
    check_subtype(format or record.format, subtype)
    return await sound_of(service, record, format or record.format, subtype or own, attached=download)


@router.get("/{id}/recipe", summary="All that determines the sound", responses=problems(404, 409))
async def recipe(request: Request, id: str) -> dict[str, Any]:
    """As `stable-audio generate --from-json` reads it, with names of files in place of paths."""
    service = service_of(request)
    record = await _done(service, id, client_of(request).owner)
    return {**recipe_of(record), "output": record.result}


@router.get("/{id}/peaks", summary="The waveform", response_model=Peaks, responses=problems(404, 409))
async def peaks(request: Request, id: str, parts: Parts = 512) -> Response:
    service = service_of(request)
    record = await _done(service, id, client_of(request).owner)

    def make(sound: Path) -> bytes:
        return peaks_of(sound, parts).model_dump_json().encode()

    content = await in_thread(service.files.derived, record.id, f"peaks-{parts}.json", make)
    return Response(content, media_type="application/json")


@router.get(
    "/{id}/spectrogram.png",
    summary="A mel spectrogram",
    response_class=Response,
    responses={200: {"content": {"image/png": BINARY}}, **problems(404, 409)},
)
async def spectrogram(
    request: Request,
    id: str,
    width: Width = 512,
    height: Height = 128,
) -> Response:
    service = service_of(request)
    record = await _done(service, id, client_of(request).owner)
    make = functools.partial(spectrogram_of, width=width, height=height)
    name = f"spectrogram-{width}x{height}.png"
    content = await in_thread(service.files.derived, record.id, name, make)
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(content, media_type="image/png", headers=headers)
