"""What the routes share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import quote

from fastapi import Query, Request
from fastapi.responses import FileResponse

from stable_audio.audio.errors import AudioError, disk_is_full
from stable_audio.inference.rendering.names import slug
from stable_audio.inference.rendering.recipe import FORMAT, VERSION
from stable_audio.interface.service.access import Client
from stable_audio.interface.service.errors import NO_ROOM, RETRY_SECONDS, ServiceError
from stable_audio.interface.service.files import Subtype
from stable_audio.interface.service.records import JobRecord
from stable_audio.interface.service.service import Service
from stable_audio.interface.service.views import ProblemView

T = TypeVar("T")

MEDIA_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "ogg": "audio/ogg",
    "opus": "audio/ogg",
}
"""Format -> type of its answers."""

BINARY = {"schema": {"type": "string", "format": "binary"}}
SOUND = {kind: BINARY for kind in sorted(set(MEDIA_TYPES.values()))}
"""Type of an answer with a sound -> what the documentation says of it."""

RANGES: dict[int | str, dict[str, Any]] = {
    206: {"description": "a part of the sound"},
    416: {"description": "no such part"},
}

Parts = Annotated[int, Query(ge=16, le=8192)]
Width = Annotated[int, Query(ge=16, le=2048)]
Height = Annotated[int, Query(ge=16, le=256)]
"""Of pictures of sounds."""

_SUBTYPES = {"wav": get_args(Subtype), "flac": ("16", "24")}
_HEADER = 6000
"""Bytes of a recipe in a header; a longer one is left to its own address."""


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service


def client_of(request: Request) -> Client:
    """Who sent a request."""
    client: Client = request.state.client
    return client


def json_body(model: type) -> dict[str, Any]:
    """What the documentation says of a body that is read without FastAPI."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What `responses` of a route says of these statuses, and of those that every route can have."""
    told = {
        400: "no request that can be read",
        401: "no token that is known",
        403: "a page of another site",
        404: "there is no such thing",
        408: "the request did not arrive in time",
        409: "not in this state",
        413: "too large",
        421: "called by another name",
        422: "a mistake in the request",
        429: "too many jobs of this client are waiting",
        500: "the program failed",
        503: "no room, not ready, or stopping",
        504: "not done within its deadline",
    }
    always = (400, 401, 403, 408, 413, 421, 422, 500, 503)
    return {
        status: {"model": ProblemView, "description": told[status]} for status in sorted({*always, *statuses})
    }


def check_subtype(format: str, subtype: str | None) -> None:
    """Raise ServiceError if a format has no such sample format."""
    if subtype is not None and subtype not in _SUBTYPES.get(format, ()):
        allowed = ", ".join(_SUBTYPES.get(format, ())) or "none"
        raise ServiceError(422, f"subtype of {format}: allowed is {allowed}; found '{subtype}'")


async def in_thread(function: Callable[..., T], *values: Any) -> T:
    """Work with a file in a thread; 404 if the file was removed in the meantime, 503 if there is no room."""
    try:
        return await asyncio.to_thread(function, *values)
    except FileNotFoundError as error:
        raise ServiceError(404, "the sound was removed") from error
    except (AudioError, OSError) as error:
        if disk_is_full(error):
            raise ServiceError(503, NO_ROOM, retry_after=RETRY_SECONDS) from error
        if isinstance(error, OSError):
            raise
        if isinstance(error.__cause__ or error.__context__, FileNotFoundError):
            raise ServiceError(404, "the sound was removed") from error
        raise ServiceError(422, "the sound cannot be written in this format") from error


async def sound_of(
    service: Service, record: JobRecord, format: str, subtype: str | None, *, attached: bool = False
) -> FileResponse:
    """The sound of a job as an answer."""
    if record.state != "done" or record.recipe is None:
        raise ServiceError(409, f"the job has no sound: it is {record.state}")
    path = await in_thread(_converted, service, record, format, subtype)
    name = quote(f"{slug(record.title)}_{record.id[:8]}.{format}", safe="")
    headers = {
        "X-Job": record.id,
        "X-Seed": str(record.line.get("seed")),
        "X-Recipe-Digest": record.digest,
        "Link": f'</v1/jobs/{record.id}/recipe>; rel="describedby"',
        "Cache-Control": "private, max-age=3600",
        "Content-Disposition": f"{'attachment' if attached else 'inline'}; filename*=UTF-8''{name}",
    }
    # The model's config, the longest part, is in the tags of the sound and at the address of the recipe.
    recipe = json.dumps({k: v for k, v in record.recipe.items() if k != "config"}, separators=(",", ":"))
    if len(recipe) <= _HEADER:
        headers["X-Recipe"] = recipe
    return FileResponse(path, media_type=MEDIA_TYPES[format], headers=headers)


def _converted(service: Service, record: JobRecord, format: str, subtype: str | None) -> Any:
    return service.files.converted(record.id, format, subtype, json.dumps(recipe_of(record)))


def recipe_of(record: JobRecord) -> dict[str, Any]:
    """All that determines the sound of a job, as `read_recipe` reads it."""
    return {"format": FORMAT, "version": VERSION, "digest": record.digest, "recipe": record.recipe}
