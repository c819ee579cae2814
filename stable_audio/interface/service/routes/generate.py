"""POST /v1/generate."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from stable_audio.interface.service.active import ActiveJob
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.records import JobRecord
from stable_audio.interface.service.request import GenerateRequest, parse_request
from stable_audio.interface.service.routes.common import (
    SOUND,
    check_subtype,
    client_of,
    json_body,
    problems,
    service_of,
    sound_of,
)
from stable_audio.interface.service.views import JobView, job_view

router = APIRouter(tags=["generate"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the sound; X-Recipe has what determines it, X-Job its job, X-Seed its seed",
        "content": SOUND,
    },
    202: {"model": JobView, "description": "the job, with `job: true`"},
    **problems(404, 409, 429, 504),
}


@router.post(
    "/v1/generate",
    summary="Generate a clip",
    responses=_ANSWERS,
    openapi_extra={"requestBody": json_body(GenerateRequest)},
    response_class=Response,
)
async def generate(request: Request) -> Response:
    """Answer with the sound once it is done, or at once with a job. Who leaves gives the clip up."""
    service, client = service_of(request), client_of(request)
    asked = parse_request(await request.body())
    check_subtype(asked.format, asked.subtype)
    job = await service.submit(asked, client=client.name, owner=client.owner)
    if asked.job:
        view = job_view(job.record, service.waiting.position)
        headers = {"Location": f"/v1/jobs/{job.record.id}"}
        return JSONResponse(view.model_dump(mode="json"), 202, headers=headers)
    record = await _awaited(request, job)
    if record is None:
        service.cancel(job.record.id, "its client went away")
        return Response(status_code=499)
    if record.state != "done":
        retry = 10 if record.status == 503 else None
        raise ServiceError(record.status, record.error or "the clip was not rendered", retry_after=retry)
    return await sound_of(service, record, record.format, record.subtype)


async def _awaited(request: Request, job: ActiveJob) -> JobRecord | None:
    """The ended job; None if its client has gone."""
    end = asyncio.ensure_future(job.end())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({end, gone}, return_when=asyncio.FIRST_COMPLETED)
        return job.record if job.record.ended else None
    finally:
        end.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
