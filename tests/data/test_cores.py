"""How many cores a process may keep busy: bound, shared, or limited by its container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stable_audio.data import cores
from stable_audio.data.cores import cores_for_process
from stable_audio.training.options import MOST_WORKERS, RunOptions

TORCHRUN = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("every", "bound", "limit", "processes", "expected"),
    [
        (16, 16, None, 1, 16),
        (16, 16, None, 4, 4),
        (16, 16, "max 100000", 4, 4),
        (4, 4, None, 8, 1),  # at least one
        (128, 6, None, 8, 6),  # bound: shared with no other
        (64, 64, "400000 100000", 1, 4),
        (64, 64, "400000 100000", 2, 2),
        (64, 64, "50000 100000", 1, 1),
        (64, 64, "150000 100000", 1, 2),
        (64, 64, "nonsense", 1, 64),
        (64, 64, "1 0", 1, 64),
        (128, 8, "400000 100000", 1, 4),
    ],
)
def test_cores_of_a_process(
    every: int,
    bound: int,
    limit: str | None,
    processes: int,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: every)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.setattr(cores, "CGROUP_LIMIT", tmp_path / "cpu.max")
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    if processes > 1:
        for name, value in {**TORCHRUN, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}.items():
            monkeypatch.setenv(name, str(value))
    assert cores_for_process() == expected
    assert RunOptions().num_workers == min(MOST_WORKERS, expected)


def test_a_contradicting_launcher_is_no_matter_of_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(cores, "CGROUP_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setenv("RANK", "no number")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cores_for_process() == 4
