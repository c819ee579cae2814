"""Every backbone goes on to the same bits, whatever the strategy, the number of processes and the files."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.building import tiny_run
from tests.training.processes.models import NAMES, config_of
from tests.training.processes.test_worlds import options_of
from tests.training.same_runs import checkpoint_differences
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

STEPS, STOP = 4, 2


def any_config(name: str) -> dict[str, Any]:
    """A tiny model whose weights are averaged from the first step on."""
    config = config_of(name)
    config["training"]["ema"] = {"update_after_step": 0}
    return config


def train_and_continue(
    folder: Path,
    configs: Callable[[str], dict[str, Any]],
    names: list[str],
    options: dict[str, Any],
    steps: int = STEPS,
) -> None:
    """Train each model to the end with a checkpoint on the way, and once more from there."""
    logging.disable(logging.WARNING)
    kind = "shards" if options.get("checkpoint_format") == "shards" else "ckpt"
    given = {**options, "max_steps": steps, "checkpoint_every": STOP}
    for name in names:
        assert tiny_run(folder, configs(name), **given, name=f"{name} whole").start() == 0
        at = folder / f"{name} whole" / "checkpoints" / f"step={STOP:08d}.{kind}"
        again = tiny_run(folder, configs(name), **given, name=f"{name} parts", ckpt_path=str(at))
        assert again.start() == 0
        assert again.module.position == steps * given.get("accum_batches", 1)


def differences(
    folder: Path, names: list[str], kind: str = "ckpt", steps: int = STEPS
) -> dict[str, list[str]]:
    """What differs between whole and continued runs, by backbone."""
    found = {}
    for name in names:
        folders = (folder / f"{name} {part}" / "checkpoints" for part in ("whole", "parts"))
        found[name] = checkpoint_differences(*(place / f"step={steps:08d}.{kind}" for place in folders))
    return {name: texts for name, texts in found.items() if texts}


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES[i : i + 2] for i in range(0, len(NAMES), 2)], ids=" and ".join)
@pytest.mark.parametrize(
    ("processes", "strategy", "more"),
    [
        (2, "ddp", {}),
        (2, "fsdp", {}),
        (2, "fsdp", {"checkpoint_format": "shards", "accum_batches": 2}),
        (4, "hsdp", {"shard_size": 2}),
    ],
    ids=["ddp", "fsdp", "fsdp, parts, accumulation", "hsdp"],
)
def test_runs_go_on_to_the_same_bits(
    tmp_path: Path, processes: int, strategy: str, more: dict[str, Any], names: list[str]
) -> None:
    options = {**options_of(processes), "strategy": strategy, **more}
    run_world(processes, train_and_continue, tmp_path, any_config, names, options)
    kind = "shards" if "checkpoint_format" in more else "ckpt"
    assert differences(tmp_path, names, kind) == {}


def test_a_difference_of_one_bit_is_found(tmp_path: Path) -> None:
    content = {"a": {3: torch.ones(2)}, "epoch": 1, "loops": {"fit_loop": {"epoch_progress": {"x": 1}}}}
    other = copy.deepcopy(content)
    other["epoch"], other["loops"]["fit_loop"]["epoch_progress"]["x"] = 2, 2  # type: ignore[index]
    torch.save(content, tmp_path / "a.ckpt")
    torch.save(other, tmp_path / "b.ckpt")
    assert checkpoint_differences(tmp_path / "a.ckpt", tmp_path / "b.ckpt") == []
    other["a"][3][1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))  # type: ignore[index]
    torch.save(other, tmp_path / "b.ckpt")
    assert checkpoint_differences(tmp_path / "a.ckpt", tmp_path / "b.ckpt") == ["/a/3 differs"]
    torch.save({**content, "lr": 0.1}, tmp_path / "b.ckpt")
    assert checkpoint_differences(tmp_path / "a.ckpt", tmp_path / "b.ckpt") == ["/lr is in one of them only"]
