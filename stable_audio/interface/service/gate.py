"""What every request passes first: who sends it, how much it sends, and how long that takes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from stable_audio.interface.service.access import client_of
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.service import Service

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY = 1 << 20
"""Bytes of a request that is no upload."""

UPLOADS = "/v1/uploads"
MOST_UPLOADS = 8
"""Uploads being received at once, each of which lies on disk until it is whole."""

_FORM = 1 << 16
"""Bytes of an upload's form beside the file."""

_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self' "
        b"'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    ),
)


class RequestGate:
    """ASGI middleware.

    Args:
        app: what is behind it.
        service: whose limits hold.
        open_paths: paths that need no token.
    """

    def __init__(self, app: Any, *, service: Service, open_paths: tuple[str, ...]) -> None:
        self._app, self._service, self._open_paths = app, service, open_paths
        self._connections = self._uploads = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        uploads = scope["path"] == UPLOADS and scope["method"] == "POST"
        self._connections += 1
        self._uploads += uploads
        try:
            await self._pass(scope, receive, self._told(scope, send))
        except _SlowReader:
            log.info("a client read too slowly, and was left")
        finally:
            self._connections -= 1
            self._uploads -= uploads

    async def _pass(self, scope: Any, receive: Receive, send: Send) -> None:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        limits = self._service.limits
        try:
            if self._connections > limits.connections:
                raise ServiceError(503, "too many requests at once", retry_after=1)
            if self._uploads > MOST_UPLOADS:
                raise ServiceError(503, "too many uploads at once", retry_after=5)
            address = (scope.get("client") or ("local",))[0]
            client = client_of(
                self._service.settings.access, scope["path"], headers, address, open_paths=self._open_paths
            )
            most = self._most(scope["path"])
            if int(headers.get("content-length") or 0) > most:
                raise ServiceError(413, f"the request has at most {most} bytes")
        except ValueError:
            await problem(400, "the header content-length is no number")(scope, receive, send)
            return
        except ServiceError as error:
            await answer(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["client"] = client
        await self._app(scope, _limited(receive, most, limits.body_seconds), send)

    def _most(self, path: str) -> int:
        if path == UPLOADS:
            return int(self._service.limits.upload_megabytes * 1e6) + _FORM
        return MAX_BODY

    def _told(self, scope: Any, send: Send) -> Send:
        """Count answers, and tell browsers to be careful with them."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._service.metrics.answers.labels(_method(scope), str(message["status"])).inc()
                own = {name.lower() for name, _ in message.get("headers", ())}
                added = [pair for pair in _SAFE if pair[0] not in own]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            try:
                await asyncio.wait_for(send(message), self._service.limits.read_seconds)
            except asyncio.TimeoutError:
                raise _SlowReader from None

        return sent


class _SlowReader(Exception):
    """A client does not take what is sent."""


def _method(scope: Any) -> str:
    """The method, of which clients cannot invent more."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"


def _limited(receive: Receive, most: int, seconds: float) -> Receive:
    """`receive`, which ends requests that are too large or too slow to arrive."""
    size, whole, ends = 0, False, time.monotonic() + seconds

    async def limited() -> Message:
        nonlocal size, whole
        if whole:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, ends - time.monotonic()))
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the request did not arrive within {seconds:g} s") from None
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > most:
                raise HTTPException(413, f"the request has at most {most} bytes")
        return message

    return limited


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is not served."""
    return JSONResponse({"detail": detail}, status, headers=headers)


def answer(error: ServiceError) -> JSONResponse:
    """The answer that says what is wrong."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return problem(error.status, error.detail, headers)
