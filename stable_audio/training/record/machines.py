"""The machines of a run, for its record: each with its hardware and the number of its processes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from stable_audio.training.processes.meeting import Meeting
from stable_audio.training.record.surroundings import machine


def machines_of(meeting: Meeting | None) -> list[dict[str, Any]]:
    """The machines of all processes, in the order of these; [] for processes other than the first, and where
    none have met. Every process must call it."""
    if meeting is None:
        return []
    own: dict[str, Any] = {"host": socket.gethostname()}
    if meeting.world.local_rank == 0:  # one of a machine looks at all of it
        own |= machine()
    return counted(json.loads(told) for told in meeting.told("its machine", json.dumps(own, default=str)))


def counted(told: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the processes say of their machines, once for each, with the number of processes there."""
    machines: dict[str, dict[str, Any]] = {}
    for one in told:
        known = machines.setdefault(str(one["host"]), {"host": one["host"], "processes": 0})
        known.update({**one, "processes": known["processes"] + 1})
    return list(machines.values())
