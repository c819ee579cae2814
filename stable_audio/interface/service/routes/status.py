"""Health, metrics, models and limits."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from stable_audio import __version__
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.files import Format
from stable_audio.interface.service.routes.common import problems, service_of
from stable_audio.interface.service.service import Service
from stable_audio.interface.service.views import Health

router = APIRouter()


def _health(service: Service) -> Health:
    states = [model.state for model in service.models.all.values()]
    status = "ok" if service.ready else "failed" if set(states) == {"failed"} else "loading"
    return Health(
        status="stopping" if service.draining else status,
        ready=service.ready,
        waiting=len(service.waiting),
        running=service.pool.running,
        version=__version__,
    )


@router.get("/health", summary="Whether the service lives", tags=["status"], responses=problems())
async def health(request: Request) -> Health:
    return _health(service_of(request))


@router.get(
    "/ready",
    summary="Whether requests are served now",
    tags=["status"],
    response_model=Health,
    responses={**problems(), 503: {"model": Health, "description": "not now"}},
)
async def ready(request: Request) -> Response:
    state = _health(service_of(request))
    headers = {} if state.ready else {"Retry-After": "5"}
    return JSONResponse(state.model_dump(), 200 if state.ready else 503, headers=headers)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    tags=["status"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems()},
)
async def metrics(request: Request) -> Response:
    service = service_of(request)
    content, kind = service.metrics.text(
        waiting=len(service.waiting), running=service.pool.running, ready=service.ready
    )
    return Response(content, media_type=kind)


@router.get("/v1/models", summary="The models", tags=["models"], responses=problems())
async def models(request: Request) -> dict[str, Any]:
    """Of each what it reads, how it is sampled and its adapters; the first is the default."""
    return {"models": [model.told() for model in service_of(request).models.all.values()]}


@router.get("/v1/models/{name}", summary="A model", tags=["models"], responses=problems(404))
async def model(request: Request, name: str) -> dict[str, Any]:
    found = service_of(request).models.all.get(name)
    if found is None:
        raise ServiceError(404, "there is no such model")
    return found.told()


@router.get("/v1/limits", summary="What a request can ask for", tags=["models"], responses=problems())
async def limits(request: Request) -> dict[str, Any]:
    service = service_of(request)
    return {
        **dataclasses.asdict(service.limits),
        "batch_size": max(service.pool.batch_size(process.device) for process in service.pool.processes),
        "client_queue": service.limits.of_client,
        "formats": list(get_args(Format)),
    }
