"""Report which items were left out of training, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from stable_audio.data.base import Rejected
from stable_audio.incidents import incident
from stable_audio.wording import plural


def printable(text: str) -> str:
    """Escape line breaks and control characters in a file name, so that it prints on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_LOG = logging.getLogger(__name__)

LEFT_OUT = "left out"
"""Kind of the incident that files were left out."""


class DataReport:
    """Counts of accepted and rejected items, with the names behind each reason.

    Memory is bounded: at most `max_names` different files are remembered; all are counted. So is the log, and
    with it the record of a run: the first `max_logged` files are named, then counted at each power of 10.
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
        files = len(self.reasons)
        if files <= self._max_logged:
            path, reason = printable(item.path), printable(item.reason)
            _LOG.warning("left out: %s: %s", path, reason, extra=incident(LEFT_OUT, file=path))
        elif self._max_logged and (files == self._max_logged + 1 or _is_power_of_ten(files)):
            _LOG.warning(
                "%s are left out by now, not all of them named; `stable-audio data-report` names them all",
                plural(files, "file"),
                extra=incident(LEFT_OUT, files=files),
            )

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
        lines = [f"{plural(self.accepted, 'item')} used, {self.rejected} left out"]
        for reason, paths in self.by_reason().items():
            names = ", ".join(printable(path) for path in paths[:names_per_reason])
            more = f" and {len(paths) - names_per_reason} more" if len(paths) > names_per_reason else ""
            lines.append(f"  {printable(reason)}: {names}{more}")
        return "\n".join(lines)


def _is_power_of_ten(number: int) -> bool:
    return str(number).strip("0") == "1"
