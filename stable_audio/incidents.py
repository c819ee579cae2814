"""What happened to a run, for its record: log records that are marked as incidents."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

_MARK = "incident"


def incident(kind: str, **details: Any) -> dict[str, Any]:
    """The `extra` of a log call that tells of an incident: a log line that the record of the run keeps.

    Args:
        kind: what happened, in a few words that are the same for all incidents of the kind.
        details: plain values, such as the step.
    """
    return {_MARK: {"kind": kind, **details}}


class IncidentHandler(logging.Handler):
    """Hands on the incidents among log records.

    Args:
        keep: gets each as plain values: {"time", "kind", "text", further details}.
    """

    def __init__(self, keep: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        details = getattr(record, _MARK, None)
        if details is None:
            return
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="seconds")
        self._keep({"time": time, "text": record.getMessage(), **details})
