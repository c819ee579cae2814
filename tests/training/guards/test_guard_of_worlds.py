"""Several processes skip a step that is bad on one of them, and go back together, as one process does."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.building import tiny_config, tiny_run
from tests.training.processes.test_worlds import compare
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")


def _train(folder: Path, name: str, options: dict[str, Any]) -> None:
    """Batch 10 is bad on the last process, and batch 12 on all: more than are skipped."""
    logging.disable(logging.CRITICAL)
    given = {"max_steps": 14, "checkpoint_every": 4, "devices": "auto", **options}
    run = tiny_run(folder, tiny_config(guard={"skips": 1, "within": 3}), name=name, **given)
    run.module.double()
    step = run.module.training_step

    def training_step(*args: Any) -> Any:
        loss, position = step(*args), run.module.position
        mine = position == 10 and run.trainer.global_rank == run.trainer.world_size - 1
        return loss * (math.nan if mine or position == 12 else 1.0)

    run.module.training_step = training_step  # type: ignore[method-assign]
    logging.disable(logging.NOTSET)
    run.start()


@pytest.mark.slow
def test_processes_skip_and_go_back_like_one(tmp_path: Path) -> None:
    run_world(1, _train, tmp_path, "x-one", {"batch_size": 4})
    for strategy in ("ddp", "fsdp"):
        run_world(2, _train, tmp_path, f"x-{strategy}", {"batch_size": 2, "strategy": strategy})
        compare(tmp_path, "x", strategy)
    for name in ("x-one", "x-ddp", "x-fsdp"):
        incidents = json.loads((tmp_path / name / "run.json").read_text())["incidents"]
        assert [entry["kind"] for entry in incidents] == ["skipped step", "skipped step", "went back"]
        assert [len(entry["files"]) for entry in incidents[:2]] == [4, 4]
        assert incidents[2]["to"] == 8
