"""Small worlds, in seconds: what the slow tests hold of every backbone, for one of them over a few steps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.building import tiny_run
from tests.training.processes.models import config_of
from tests.training.processes.test_worlds import compare, options_of, train
from tests.training.worlds import ended_world, run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
NAME, STEPS = "mlp", 4


def _options(processes: int, **more: Any) -> dict[str, Any]:
    return {**options_of(processes), "max_steps": STEPS, **more}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("small worlds")
    run_world(1, train, folder, [NAME], "one", _options(1))
    return folder


@pytest.mark.parametrize(("processes", "strategy", "more"), [(2, "ddp", {}), (4, "hsdp", {"shard_size": 2})])
def test_several_processes_train_like_one(
    alone: Path, processes: int, strategy: str, more: dict[str, Any]
) -> None:
    run_world(processes, train, alone, [NAME], strategy, _options(processes, strategy=strategy, **more))
    compare(alone, NAME, strategy)


def test_a_run_of_four_processes_goes_on_with_two(alone: Path) -> None:
    shards = {"max_steps": 2, "checkpoint_every": 2, "checkpoint_format": "shards"}
    run_world(4, train, alone, [NAME], "resumed", _options(4, strategy="fsdp", **shards))
    assert not (alone / f"{NAME}-resumed" / "last.ckpt").exists()
    run_world(2, train, alone, [NAME], "resumed", _options(2, strategy="fsdp", recover=True))
    compare(alone, NAME, "resumed")


def _killed(folder: Path, victim: int) -> None:
    """Train with processes of which one is killed in its second step, as by a system without memory."""
    run = tiny_run(folder, config_of(NAME), **_options(2, dead_after=12.0))
    step = run.module.training_step

    def training_step(*args: Any) -> Any:
        if run.trainer.global_rank == victim and run.trainer.global_step == 1:
            signal.raise_signal(signal.SIGKILL)
        return step(*args)

    run.module.training_step = training_step  # type: ignore[method-assign]
    run.start()


def test_a_process_that_is_killed_is_named_by_the_other(tmp_path: Path) -> None:
    statuses, failures = ended_world(2, _killed, tmp_path, 1, left_alone=True)
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] not in (0, -signal.SIGKILL)
    (failure,) = failures
    assert "process 1 of 2 on " in failure
