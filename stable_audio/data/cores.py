"""Processor cores for the processes that read data."""

from __future__ import annotations

import math
import os
from pathlib import Path

from stable_audio.data.world import WorldError, launched_world

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time that a container has in a period, or "max", and the period (Linux kernel
documentation, "Control Group v2", cpu.max)."""


def bound_cores() -> int:
    """The cores that this process is bound to, by default all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_for_process() -> int:
    """How many cores this process may keep busy; at least 1.

    Those that it is bound to, as SLURM binds the tasks of a job. Where it is bound to none, its share of the
    cores of the machine or of its container among the processes that its launcher has started there.
    """
    every, own = os.cpu_count() or 1, bound_cores()
    allowed = min(own, _container_limit() or own)
    return allowed if own < every else max(1, allowed // _processes_here())


def _container_limit() -> int | None:
    """Cores that a container has, by its processor time; None without a limit."""
    try:
        time, period = CGROUP_LIMIT.read_text(encoding="ascii").split()
        return max(1, math.ceil(int(time) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def _processes_here() -> int:
    try:
        return launched_world().local_size
    except WorldError:  # told where the processes are counted
        return 1
