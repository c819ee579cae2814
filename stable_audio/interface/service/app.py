"""The application: routes, their documentation, and what surrounds them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from stable_audio import __version__
from stable_audio.interface.service.access import OPEN
from stable_audio.interface.service.docs_page import docs_page
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.gate import RequestGate, answer, problem
from stable_audio.interface.service.mistakes import mistake
from stable_audio.interface.service.request import GenerateRequest
from stable_audio.interface.service.routes import generate, jobs, status, uploads
from stable_audio.interface.service.service import Service
from stable_audio.interface.service.views import JobChange

log = logging.getLogger(__name__)

_DESCRIPTION = (
    "Generates sound with the models of this machine. Where a request cannot be served, the answer is a JSON "
    "object with `detail`; 429 and 503 say in Retry-After when to try again."
)


def create_app(
    service: Service, *, routers: Sequence[APIRouter] = (), open_paths: Sequence[str] = ()
) -> FastAPI:
    """The application of a service, which it starts and stops.

    Args:
        routers: what it answers besides, such as pages.
        open_paths: paths of these that need no token.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="stable-audio",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # its page asks other machines for its scripts
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    for router in (generate.router, jobs.router, uploads.router, status.router, *routers):
        app.include_router(router)
    app.add_api_route("/docs", _docs, include_in_schema=False, response_class=HTMLResponse)
    app.add_exception_handler(ServiceError, _refused)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(RequestGate, service=service, open_paths=(*OPEN, *open_paths))
    if service.settings.access.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.access.origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Job", "X-Seed", "X-Recipe", "X-Recipe-Digest", "Location", "Retry-After"],
        )
    app.openapi = _documented(app)  # type: ignore[method-assign]
    return app


async def _docs(request: Request) -> Response:
    return HTMLResponse(docs_page(request.app.openapi()))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return answer(error)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem(422, "; ".join(map(mistake, error.errors()))[:2000])


async def _failed(request: Request, error: Exception) -> Response:
    return problem(500, "the program failed; the log of the service says why")


def _documented(app: FastAPI) -> Any:
    """The OpenAPI description, with the bodies that are read without FastAPI."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        known = app.openapi_schema is not None
        schema = original()
        if known:
            return schema
        components = schema.setdefault("components", {})
        for model in (GenerateRequest, JobChange):
            body = model.model_json_schema(ref_template="#/components/schemas/{model}")
            components.setdefault("schemas", {}).update({**body.pop("$defs", {}), model.__name__: body})
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"token": []}, {}]
        return schema

    return openapi
