"""Who is answered: bearer tokens, names of the host, and pages of other sites."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from stable_audio.interface.hosts import host_name
from stable_audio.interface.service.errors import ServiceError
from stable_audio.interface.service.settings import Access

OPEN = ("/health", "/ready", "/docs", "/openapi.json")
"""Paths that need no token: they tell nothing of what clients do."""


@dataclass(frozen=True)
class Client:
    """Who sent a request.

    Attributes:
        name: for fairness.
        owner: whose jobs and uploads it sees; "" = those of everyone without a token.
    """

    name: str
    owner: str = ""


def client_of(
    access: Access, path: str, headers: Mapping[str, str], address: str, *, open_paths: tuple[str, ...] = OPEN
) -> Client:
    """The client of a request.

    Args:
        path: of the request.
        headers: names in small letters -> values.
        address: of the other end of the connection.
        open_paths: paths that need no token.

    Raises:
        ServiceError: 401 without a token that is known, 403 for a page of another site, 421 under a name that
            is not that of the service.
    """
    _check_host(access, headers)
    _check_origin(access, headers)
    if not access.tokens:
        return Client(address)
    kind, _, token = headers.get("authorization", "").partition(" ")
    names = [
        name
        for name, known in access.tokens.items()
        # Each is compared in full, so that the time tells nothing of them.
        if hmac.compare_digest(known.encode(), token.strip().encode("utf-8", "replace"))
    ]
    if kind.lower() == "bearer" and names:
        return Client(names[0], names[0])
    if path in open_paths:
        return Client(address)
    raise ServiceError(401, "a bearer token is needed: send 'Authorization: Bearer TOKEN'")


def _check_host(access: Access, headers: Mapping[str, str]) -> None:
    if access.hosts and (name := host_name(headers.get("host", ""))) not in access.hosts:
        raise ServiceError(
            421, f"this service is not called '{name[:80]}'; --host-name says how it is called"
        )


def _check_origin(access: Access, headers: Mapping[str, str]) -> None:
    """Refuse what a page of another site sends, which browsers send whether or not it may read the answer."""
    origin = headers.get("origin")
    if origin is None or origin in access.origins:
        return
    if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        raise ServiceError(403, "pages of other sites may not call this service; --cors-origin allows one")
