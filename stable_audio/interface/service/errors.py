"""What goes wrong with a request, and the status of HTTP that says so."""

from __future__ import annotations

RETRY_SECONDS = 60.0
"""After which a client may ask again for what a full disk did not allow."""

NO_ROOM = "the service has no room to store the sound"
"""Why a sound is not given, where the disk is full."""


class ServiceError(Exception):
    """A request that cannot be served.

    Attributes:
        status: of HTTP.
        detail: one sentence for the client.
        retry_after: seconds after which the same request may be served; None: it will not be.
    """

    def __init__(self, status: int, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after


def no_store(what: str) -> ServiceError:
    """The error that jobs or uploads cannot be stored, as on a full disk."""
    return ServiceError(503, f"{what} cannot be stored at the moment", retry_after=RETRY_SECONDS)
