"""Groups of processes with one place to meet, and processes that count themselves otherwise than others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from stable_audio.data.world import World
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes import rendezvous
from stable_audio.training.processes.patience import Patience
from stable_audio.training.processes.rendezvous import meet
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.processes.two_worlds import refuse_second
from tests.training.building import tiny_run
from tests.training.worlds import ended_world, free_port

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")


def _world(rank: int, port: int) -> World:
    return World(rank, 2, rank, 2, 0, 1, "SLURM", "127.0.0.1", port)


def test_a_second_process_with_the_same_number_is_refused() -> None:
    start = torch.distributed.HashStore()
    for rank in (0, 1):
        refuse_second(start, _world(rank, 1))
    with pytest.raises(TrainingError, match=r"process 1 of 2 .*, and another one with this number has met"):
        refuse_second(start, _world(1, 1))


def test_a_first_process_beside_the_one_at_its_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of two parts of a heterogeneous job that were started one by one with one MASTER_ADDR."""
    port, opened = free_port(), rendezvous._opened_at
    theirs = opened("127.0.0.1", port, Patience(5, stop=StopRequest()))
    theirs.set("owner", "another")
    # On a machine of its own it can open the port.
    monkeypatch.setattr(rendezvous, "_opened_at", lambda _, __, patience: opened("0.0.0.0", 0, patience))
    with pytest.raises(TrainingError, match=r"another process 0 answers; .*`srun --het-group=0,1`"):
        meet(_world(0, port), seconds=5)


def _of_another_size(folder: Path) -> None:
    os.environ["WORLD_SIZE"] = str(2 + int(os.environ["RANK"]))
    tiny_run(folder, devices="auto", accelerator="cpu")


def test_processes_that_count_themselves_otherwise_are_refused(tmp_path: Path) -> None:
    _, failures = ended_world(2, _of_another_size, tmp_path, left_alone=True)
    assert any("the number of processes is 3 in process 1 and 2 in process 0" in text for text in failures)
