"""Whether a run goes on, has ended, or has fallen silent, from what its files say and how old they are."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stable_audio.training.record.run_record import read_record

QUIET_SECONDS = 120.0
"""Silence that is usual in any run."""

QUIET_LINES, QUIET_PAUSES = 20, 3
"""Silence that is usual, in lines of metrics, and in the longest demo of which the log tells."""

RARE_LINES, RARE_SECONDS = 3, 600.0
"""Of lines that are rare, fewer are waited for, and this time besides, for what runs do between lines."""

START_SECONDS = 900.0
"""Silence that is usual before the first line, while data are scanned and networks compiled."""

DEAD_SECONDS, DEAD_TIMES = 3600.0, 10
"""A run whose process cannot be looked up counts as dead after an hour, and ten times the usual silence."""

GONE_SECONDS = 15.0
"""Silence before a process that cannot be found counts: that of a container has another number there."""

_LOG_BYTES = 32768
_LONGEST_REASON = 500
_END = re.compile(r" step ([\d,]+) reached; written to ")
_LATER = re.compile(
    r"^\d{4}-\d\d-\d\d .*? (?:INFO|WARNING|ERROR) (?!stable_audio\.training\.run:)", re.MULTILINE
)
_FAILURE = re.compile(r" ERROR run: Traceback \(most recent call last\):$", re.MULTILINE)
_REASON = re.compile(r"^((?:[\w.]+\.)?\w*(?:Error|Exception|Memory|Interrupt\w*|Exit)\b.*)$", re.MULTILINE)
_PAUSE = re.compile(r" demo of step \d+ in ([\d.]+) s\b")


@dataclass(frozen=True)
class State:
    """What a run is doing.

    Attributes:
        name: starting, running, finished, stopped, failed, stalled or died.
        told: a sentence about it.
    """

    name: str
    told: str


@dataclass(frozen=True)
class Signs:
    """What tells the state of a run.

    Attributes:
        start: the last entry of `starts` in `run.json`; empty without one.
        log: the end of `log.txt`.
        silent: seconds since one of its files changed.
        step: its last step, or None.
        line_seconds: seconds between two lines of its metrics at its own pace; None if not known.
        same_machine: whether the run is on this machine.
    """

    start: Mapping[str, Any]
    log: str
    silent: float
    step: int | None
    line_seconds: float | None
    same_machine: bool = False

    @property
    def max_steps(self) -> int | None:
        """Steps that the run is to reach; None if there is no end or it is not known."""
        options = self.start.get("options")
        steps = options.get("max_steps") if isinstance(options, dict) else None
        return steps if isinstance(steps, int) and steps > 0 else None


def state_of(signs: Signs) -> State:
    """The state that the signs show."""
    if (ended := _ended(signs)) is not None:
        return ended
    lives = _process_lives(signs)
    if lives is False and signs.silent > GONE_SECONDS:
        told = f"its process is gone without a word; its last sign of life was {in_words(signs.silent)} ago"
        return State("died", told)
    usual = _usual_silence(signs)
    if signs.silent <= usual:
        if signs.step is None:
            return State("starting", "it has written no step yet")
        return State("running", "it is running")
    pace = "" if signs.line_seconds is None else f"; a line came every {in_words(signs.line_seconds)}"
    told = f"nothing new for {in_words(signs.silent)}{pace}"
    dead = signs.silent > max(DEAD_SECONDS, DEAD_TIMES * usual)
    return State("died" if dead and lives is None else "stalled", told)


def _ended(signs: Signs) -> State | None:
    """The state of a run whose record says how it ended, or whose log does."""
    end = signs.start.get("ended")
    if not isinstance(end, dict):
        return _ended_by_log(signs)
    if "error" in end:
        return State("failed", str(end["error"])[:_LONGEST_REASON])
    step = end.get("step")
    at = f" at step {step:,}" if isinstance(step, int) else ""
    if end.get("stopped"):
        return State("stopped", f"it was stopped{at}")
    return State("finished", f"it ended{at}")


def _ended_by_log(signs: Signs) -> State | None:
    """The same of a run whose record says nothing of its end."""
    ends = list(_END.finditer(signs.log))
    if ends and not _LATER.search(signs.log, ends[-1].end()):
        step, rest = ends[-1][1], signs.log[ends[-1].end() :]
        if "with --recover continues from here" in rest:
            return State("stopped", f"it was stopped at step {step}")
        return State("finished", f"it ended at step {step}")
    failures = list(_FAILURE.finditer(signs.log))
    if failures and not _LATER.search(signs.log, failures[-1].end()):
        reasons = _REASON.findall(signs.log, failures[-1].end())
        return State("failed", reasons[-1][:_LONGEST_REASON] if reasons else "it ended with an error")
    reached = signs.max_steps is not None and signs.step is not None and signs.step >= signs.max_steps
    # Earlier versions did not record the end.
    if reached and "ended" not in signs.start and signs.silent > QUIET_SECONDS:
        return State("finished", f"it reached its last step, {signs.step:,}")
    return None


def _process_lives(signs: Signs) -> bool | None:
    """Whether the process of the run is there; None if that cannot be known from this machine."""
    process = signs.start.get("process")
    if not signs.same_machine or not isinstance(process, int) or process < 1:
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return None
    return True


def _usual_silence(signs: Signs) -> float:
    if signs.step is None:
        return START_SECONDS
    pauses = [float(seconds) for seconds in _PAUSE.findall(signs.log)]
    line = signs.line_seconds or 0.0
    lines = min(QUIET_LINES * line, RARE_LINES * line + RARE_SECONDS)
    return max(QUIET_SECONDS, lines, QUIET_PAUSES * max(pauses, default=0.0))


def last_start(folder: Path) -> dict[str, Any]:
    """The last entry of `run.json`; empty if there is none that can be read."""
    return start_in(read_record(folder / "run.json"))


def start_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """The last start of a record; empty without one."""
    last = record["starts"][-1] if record["starts"] else None
    return last if isinstance(last, dict) else {}


def log_end(path: Path) -> str:
    """The end of a log; empty without one."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def is_this_machine(start: Mapping[str, Any]) -> bool:
    """Whether a start of a run was on this machine since it was switched on."""
    if start.get("host") != socket.gethostname():
        return False
    try:
        started = datetime.fromisoformat(str(start.get("started"))).timestamp()
    except ValueError:
        return False
    # CLOCK_BOOTTIME is Linux's; elsewhere the process alone decides.
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return clock is None or started > time.time() - time.clock_gettime(clock) - 60


def in_words(seconds: float) -> str:
    """A duration as a person says it."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
