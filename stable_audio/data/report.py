"""Report which items were left out of training, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from stable_audio.data.base import Rejected


def printable(text: str) -> str:
    """Escape line breaks and control characters in a file name, so that it prints on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_LOG = logging.getLogger(__name__)


class DataReport:
    """Counts of accepted and rejected items, with the names behind each reason.

    Memory is bounded: at most `max_names` different files are remembered; all are counted.
    """

    def __init__(self, *, max_names: int = 10_000, max_logged: int = 10) -> None:
        self.accepted = 0
        self.rejected = 0
        self.reasons: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._max_names = max_names
        self._max_logged = max_logged

    def add(self, accepted: int, rejected: Iterable[Rejected] = ()) -> None:
        """Count one batch."""
        self.accepted += accepted
        for item in rejected:
            self.rejected += 1
            if item.path in self.reasons:
                self.counts[item.path] += 1
            elif len(self.reasons) < self._max_names:
                self.reasons[item.path] = item.reason
                self.counts[item.path] = 1
                self._log(item)

    def _log(self, item: Rejected) -> None:
        kinds = len(self.reasons)
        if kinds <= self._max_logged:
            _LOG.warning("left out: %s: %s", printable(item.path), printable(item.reason))
        elif self._max_logged and kinds == self._max_logged + 1:
            _LOG.warning("more files are left out; the data report names them all")

    def by_reason(self) -> dict[str, list[str]]:
        """Reason -> files, both sorted."""
        groups: dict[str, list[str]] = {}
        for path, reason in sorted(self.reasons.items()):
            groups.setdefault(reason, []).append(path)
        return dict(sorted(groups.items()))

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON files and loggers."""
        return {"accepted": self.accepted, "rejected": self.rejected, "by_reason": self.by_reason()}

    def summary(self, names_per_reason: int = 3) -> str:
        """A summary of a few lines."""
        lines = [f"{self.accepted} items used, {self.rejected} left out"]
        for reason, paths in self.by_reason().items():
            names = ", ".join(printable(path) for path in paths[:names_per_reason])
            more = f" and {len(paths) - names_per_reason} more" if len(paths) > names_per_reason else ""
            lines.append(f"  {printable(reason)}: {names}{more}")
        return "\n".join(lines)
