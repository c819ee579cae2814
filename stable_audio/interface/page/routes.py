"""Addresses of the page and its files."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from stable_audio.interface.page.files import INDEX, PageFile, page_files
from stable_audio.interface.service.app import create_app
from stable_audio.interface.service.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""What the page may do: nothing with other machines, no script or style within it, no text read as markup."""


def page_app(service: Service, *, title: str = "Stable Audio") -> FastAPI:
    """The application of a service that has the page, too, at `/`.

    Args:
        title: of the page.
    """
    files = {("/" if name == INDEX else f"/page/{name}"): file for name, file in page_files(title).items()}
    return create_app(service, routers=[_router(files)], open_paths=tuple(files))


def _router(files: Mapping[str, PageFile]) -> APIRouter:
    router = APIRouter()
    for path, file in files.items():
        router.add_api_route(path, _answering(file), methods=["GET"], include_in_schema=False)
    return router


def _answering(file: PageFile) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    headers = {
        "ETag": file.tag,
        # Browsers keep the file and ask whether it is the same: after an update, no old one meets a new one.
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
    }

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    return answer
