"""What goes wrong with a request, and the status of HTTP that says so."""

from __future__ import annotations


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
