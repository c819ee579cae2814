"""Demos that have ended a run, as its record tells, so that the run does not end by the same one again."""

from __future__ import annotations

from typing import Any

from stable_audio.incidents import incident
from stable_audio.training.record.run_record import RunRecord

KIND = "demo ended the run"
"""Kind of the incident."""


def ending_demo(step: int) -> dict[str, Any]:
    """The `extra` of a log call that tells that the demo of a step ends the run."""
    return incident(KIND, step=step)


def ending_demos(record: RunRecord) -> frozenset[int]:
    """Steps whose demos have ended earlier starts; known on the first process."""
    return frozenset(entry["step"] for entry in record.incidents_of(KIND) if "step" in entry)
