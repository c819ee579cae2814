"""Sounds that clients send, to start from, to inpaint or to condition on."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, File, Query, Request, Response, UploadFile
from fastapi.responses import FileResponse

from stable_audio.interface.service.pictures import peaks_of, spectrogram_of
from stable_audio.interface.service.routes.common import (
    BINARY,
    RANGES,
    Height,
    Parts,
    Width,
    client_of,
    in_thread,
    problems,
    service_of,
)
from stable_audio.interface.service.views import Peaks, UploadList, UploadView, upload_view

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

_AUDIO: dict[int | str, dict[str, Any]] = {
    200: {"content": {"audio/wav": BINARY}},
    **RANGES,
    **problems(404),
}


@router.post("", summary="Send a sound", status_code=201, responses=problems())
async def upload(
    request: Request, file: Annotated[UploadFile, File(description="a sound file")]
) -> UploadView:
    """The answer's `id` is what requests name the sound by."""
    service, client = service_of(request), client_of(request)
    record = await service.uploads.add(file.file, file.filename or "", client.owner)
    return upload_view(record)


@router.get("", summary="What was sent, the newest first", responses=problems())
async def uploads(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> UploadList:
    service = service_of(request)
    rows = await service.in_database(service.store.uploads, client_of(request).owner, limit)
    return UploadList(uploads=[upload_view(row) for row in rows])


@router.get("/{id}", summary="An upload", responses=problems(404))
async def one(request: Request, id: str) -> UploadView:
    return upload_view(await service_of(request).uploads.find(id, client_of(request).owner))


@router.delete("/{id}", summary="Remove an upload", status_code=204, responses=problems(404))
async def remove(request: Request, id: str) -> Response:
    service = service_of(request)
    record = await service.uploads.find(id, client_of(request).owner)
    await service.uploads.remove(record.id)
    return Response(status_code=204)


@router.get("/{id}/audio", summary="Its sound", response_class=FileResponse, responses=_AUDIO)
async def audio(request: Request, id: str) -> FileResponse:
    service = service_of(request)
    record = await service.uploads.find(id, client_of(request).owner)
    return FileResponse(service.uploads.path(record.id), media_type="audio/wav")


@router.get("/{id}/peaks", summary="Its waveform", responses=problems(404))
async def peaks(request: Request, id: str, parts: Parts = 512) -> Peaks:
    service = service_of(request)
    record = await service.uploads.find(id, client_of(request).owner)
    return await in_thread(peaks_of, service.uploads.path(record.id), parts)


@router.get(
    "/{id}/spectrogram.png",
    summary="Its mel spectrogram",
    response_class=Response,
    responses={200: {"content": {"image/png": BINARY}}, **problems(404)},
)
async def spectrogram(
    request: Request,
    id: str,
    width: Width = 512,
    height: Height = 128,
) -> Response:
    service = service_of(request)
    record = await service.uploads.find(id, client_of(request).owner)
    content = await in_thread(spectrogram_of, service.uploads.path(record.id), width, height)
    return Response(content, media_type="image/png")
