"""What a run is doing, as its files tell it."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from stable_audio.interface.watch.state import (
    QUIET_SECONDS,
    START_SECONDS,
    Signs,
    in_words,
    is_this_machine,
    last_start,
    log_end,
    state_of,
)
from stable_audio.training.errors import TrainingError
from stable_audio.training.record.start_files import logged_to

BEGIN = "2026-01-01 10:00:00,000 INFO stable_audio.training.record.lines: folder       runs/a\n"
END = "2026-01-01 11:00:00,000 INFO stable_audio.training.run: step 1,000 reached; written to runs/a:\n"
FILES = "2026-01-01 11:00:00,000 INFO stable_audio.training.run:   metrics.csv          190 kB  curves\n"
AGAIN = (
    "2026-01-01 11:00:00,000 INFO stable_audio.training.run: next: the same command with --recover continues "
    "from here\n"
)
DEMO = "2026-01-01 10:30:00,000 INFO stable_audio.training.callbacks.demos: demo of step 9 in 600.0 s, to l\n"
FAILED_DEMO = (
    "2026-01-01 10:30:00,000 ERROR stable_audio.training.callbacks.demos: the demo of step 9 failed; "
    "training continues\nTraceback (most recent call last):\n  File x\nValueError: no\n"
)


def _signs(**values: Any) -> Signs:
    usual: dict[str, Any] = {"start": {}, "log": BEGIN, "silent": 1.0, "step": 9, "line_seconds": 0.5}
    return Signs(**{**usual, **values})


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ({}, "running"),
        ({"step": None, "line_seconds": None, "silent": START_SECONDS - 1}, "starting"),
        ({"step": None, "line_seconds": None, "silent": START_SECONDS + 1}, "stalled"),
        ({"silent": QUIET_SECONDS - 1}, "running"),
        ({"silent": QUIET_SECONDS + 1}, "stalled"),
        ({"silent": 199.0, "line_seconds": 10.0}, "running"),  # at its own pace
        ({"silent": 201.0, "line_seconds": 10.0}, "stalled"),
        ({"silent": 3599.0, "line_seconds": 1000.0}, "running"),
        ({"silent": 3601.0, "line_seconds": 1000.0}, "stalled"),
        ({"silent": 1799.0, "log": BEGIN + DEMO}, "running"),  # demos take as long in this run
        ({"silent": 1801.0, "log": BEGIN + DEMO}, "stalled"),
        ({"silent": 4000.0}, "died"),
        ({"silent": 4000.0, "line_seconds": 100.0}, "stalled"),
        ({"log": BEGIN + END + FILES}, "finished"),
        ({"log": BEGIN + END + FILES + AGAIN}, "stopped"),
        ({"log": BEGIN + END + FILES + BEGIN}, "running"),  # continued
        ({"log": BEGIN + FAILED_DEMO}, "running"),
        ({"log": ""}, "running"),
        ({"start": {"ended": {"step": 9, "stopped": False}}, "silent": 1e6}, "finished"),
        ({"start": {"ended": {"step": 9, "stopped": True}}}, "stopped"),
        ({"start": {"ended": {"step": "x", "error": 7}}}, "failed"),
        ({"start": {"ended": None}}, "running"),
        ({"start": {"options": {"max_steps": 9}}, "silent": 1e6}, "finished"),
        ({"start": {"options": {"max_steps": 9}}}, "running"),
        ({"start": {"options": {"max_steps": 10}}, "silent": 1e6}, "died"),
        ({"start": {"options": {"max_steps": 9}, "ended": None}, "silent": 1e6}, "died"),
        ({"start": {}, "log": BEGIN + END, "silent": 1e6}, "finished"),
    ],
)
def test_states(values: dict[str, Any], state: str) -> None:
    assert state_of(_signs(**values)).name == state


def test_a_run_that_failed_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrainingError), logged_to(tmp_path, 0):
        raise TrainingError("the disk is full")
    state = state_of(_signs(log=log_end(tmp_path / "log.txt")))
    assert (state.name, state.told) == (
        "failed",
        "stable_audio.training.errors.TrainingError: the disk is full",
    )
    with logged_to(tmp_path, 0):
        logging.getLogger("stable_audio.training.x").warning("again")
    assert state_of(_signs(log=log_end(tmp_path / "log.txt"))).name == "running"


def _start(**values: Any) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "started": now, "process": os.getpid(), **values}


def test_a_process_that_is_gone_is_told_soon() -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    process = int(gone.stdout)
    gone_for_long = {"start": _start(process=process), "silent": 20.0}
    assert state_of(_signs(**gone_for_long, same_machine=True)).name == "died"
    assert state_of(_signs(**gone_for_long)).name == "running"  # on another machine
    # A run in a container that writes is alive, though its process has another number here.
    assert state_of(_signs(start=_start(process=process), same_machine=True)).name == "running"
    # One that is there is not dead, however silent.
    assert state_of(_signs(start=_start(), same_machine=True, silent=1e6)).name == "stalled"
    for process in (None, "7", -1, 10**30):
        assert state_of(_signs(start=_start(process=process), same_machine=True)).name == "running"


def test_this_machine() -> None:
    assert is_this_machine(_start())
    assert not is_this_machine(_start(host="elsewhere"))
    assert not is_this_machine(_start(started="soon"))
    assert not is_this_machine({})
    if hasattr(time, "CLOCK_BOOTTIME"):  # before the machine was switched on, the number was another process
        assert not is_this_machine(_start(started="1999-01-01T00:00:00+00:00"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"starts": 3}', '{"starts": []}', '{"starts": [3]}', "\0", "[" * 9999]
)
def test_a_damaged_record_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    assert last_start(tmp_path) == {}
    assert last_start(tmp_path / "none") == {}


def test_the_last_start_counts(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"starts": [{"host": "a"}, {"host": "b"}]}))
    assert last_start(tmp_path) == {"host": "b"}
    for options, steps in (({"max_steps": 7}, 7), ({"max_steps": -1}, None), (3, None), ({}, None)):
        assert _signs(start={"options": options}).max_steps == steps


def test_durations() -> None:
    told = [in_words(s) for s in (0.25, 3, 59, 119, 120, 7200, 200_000)]
    assert told == ["0.25 s", "3 s", "59 s", "119 s", "2 min", "2 hours", "2 days"]
