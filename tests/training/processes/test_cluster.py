"""What Lightning is told of the processes that a launcher started."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from stable_audio.config import load_config
from stable_audio.data.world import World, WorldError
from stable_audio.training.errors import TrainingError
from stable_audio.training.lightning_trainer import _strategy as lightning_strategy
from stable_audio.training.lightning_trainer import quiet_lightning, shard_size
from stable_audio.training.options import RunOptions
from stable_audio.training.processes import rendezvous
from stable_audio.training.processes.cluster import layout, log_world, parse_devices
from stable_audio.training.processes.splitting import SplitWeights
from stable_audio.training.processes.strangers import told_of_strangers
from tests.training.building import tiny_config, tiny_run


def _world(nodes: int, here: int, node: int, local: int, **more: Any) -> World:
    rank = node * here + local
    return World(rank, nodes * here, local, here, node, nodes, "SLURM", "first", 15000, **more)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(("nodes", "here"), [(1, 2), (2, 1), (2, 2)])
def test_a_grid_of_processes(nodes: int, here: int, gpus: Any) -> None:
    for count in (0, here):
        gpus(count)
        found = layout(RunOptions(), _world(nodes, here, nodes - 1, here - 1))
        assert (found.devices, found.nodes, found.processes) == (here, nodes, nodes * here)
        assert found.environment.local_rank() == here - 1
        assert found.environment.node_rank() == nodes - 1


def test_a_gpu_per_task(gpus: Any) -> None:
    # --gpus-per-task=1: each task sees one GPU, and its number is 0 for all of them.
    gpus(1)
    for local in (0, 1):
        found = layout(RunOptions(), _world(2, 2, 1, local))
        assert (found.devices, found.processes) == ([0], 4)
        assert found.environment.local_rank() == 0
        assert found.environment.node_rank() == found.environment.global_rank() == 2 + local
        assert found.environment.world_size() == 4


def test_a_list_of_devices_is_kept(gpus: Any) -> None:
    gpus(4)
    assert layout(RunOptions(devices="1,3"), _world(1, 2, 0, 1)).devices == [1, 3]


def test_machines_of_different_size(gpus: Any) -> None:
    gpus(2)
    world = World(1, 3, 1, 2, 0, 2, "SLURM", "first", 15000)
    found = layout(RunOptions(), world)
    assert (found.devices, found.processes) == ([1], 3)


def test_more_processes_than_gpus(gpus: Any) -> None:
    gpus(2)
    with pytest.raises(TrainingError, match=r"4 processes are on this machine.*only 2 GPUs are visible"):
        layout(RunOptions(), _world(1, 4, 0, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": "4"}, "--devices 4, but SLURM started 2 processes, with 1 as the number"),
        ({"num_nodes": 1}, "--num-nodes 1, but SLURM started 2 processes, with 2 as the number of machines"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        layout(RunOptions(accelerator="cpu", **options), _world(2, 1, 0, 0))


def test_a_world_without_a_place_to_meet() -> None:
    world = World(0, 2, 0, 1, 0, 2, "MPI")
    with pytest.raises(WorldError, match="set MASTER_ADDR"):
        layout(RunOptions(accelerator="cpu"), world)
    left_over = replace(world, launcher="the environment")
    with pytest.raises(WorldError, match="to run this process alone, unset RANK and WORLD_SIZE"):
        layout(RunOptions(accelerator="cpu"), left_over)


def test_torchruns_of_one_srun_that_know_nothing_of_each_other_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    apart = World(0, 1, 0, 1, 0, 1, "torchrun", "here", 15000)
    log_world(apart)
    assert "srun has started 2 tasks, and the torchrun of this one knows of no other" in caplog.text
    for world in (World(0, 2, 0, 1, 0, 2, "torchrun", "here", 15000), _world(1, 2, 0, 1)):
        assert told_of_strangers(world) is None
    monkeypatch.delenv("SLURM_PROCID")
    assert told_of_strangers(apart) is None


def test_several_nodes_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_RANK", raising=False)
    with pytest.raises(TrainingError, match="--num-nodes 2, but no launcher"):
        layout(RunOptions(accelerator="cpu", num_nodes=2), World())
    monkeypatch.setenv("NODE_RANK", "1")
    assert layout(RunOptions(accelerator="cpu", num_nodes=2, devices="1"), World()).processes == 2


def test_without_a_launcher_the_options_decide(gpus: Any) -> None:
    gpus(4)
    assert layout(RunOptions(), World()).processes == 4
    assert layout(RunOptions(devices="2"), World()).processes == 2
    assert layout(RunOptions(devices="1,3"), World()).devices == [1, 3]
    assert layout(RunOptions(accelerator="cpu"), World()).processes == 1


@pytest.mark.parametrize("text", ["many", "0", "", "-2"])
def test_devices_that_are_none(text: str) -> None:
    with pytest.raises(TrainingError, match="--devices must be auto, a count or a list"):
        parse_devices(text)


def test_processes_that_do_not_meet_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.setattr(rendezvous, "LONELY_SECONDS", 1.0)
    with pytest.raises(TrainingError, match=r"waited 1 seconds for 1 of 2 processes.*SLURM allots 2 tasks"):
        tiny_run(tmp_path, devices="auto")
    assert "put `srun` before the command" in caplog.text
    assert "to run this process alone, unset SLURM_PROCID" in caplog.text


def test_processes_that_lose_each_other_are_one_sentence(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)

    def lonely(*_: Any, **__: Any) -> None:
        raise torch.distributed.DistStoreError("Timed out after 1801 seconds: 1/2 clients joined.\nmore")

    run.trainer.fit = lonely  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"1 process .*did not meet.*1/2 clients joined.\); start each"):
        run.start()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shard_size": 2}, "--shard-size is for --strategy hsdp, and this run has --strategy auto"),
        ({"cpu_offload": True}, "--cpu-offload is for --strategy fsdp and hsdp"),
        ({"cpu_offload": True, "strategy": "fsdp"}, "this run has no GPU"),
        ({"shard_size": 1, "strategy": "hsdp"}, "--shard-size must be at least 2"),
    ],
)
def test_options_of_splitting_are_refused_without_it(
    tmp_path: Path, wrong: dict[str, Any], message: str, gpus: Any
) -> None:
    gpus(0)
    with pytest.raises(TrainingError, match=message):
        tiny_run(tmp_path, **wrong)


def test_parts_are_shared_by_whole_groups_of_processes(gpus: Any) -> None:
    gpus(4)
    placed = layout(RunOptions(), _world(2, 4, 0, 0))
    for size, expected in ((None, 4), (2, 2), (4, 4)):
        assert shard_size(RunOptions(strategy="hsdp", shard_size=size), placed) == expected
    for size in (3, 8):
        with pytest.raises(TrainingError, match=f"over groups of {size} processes.*this run has 8"):
            shard_size(RunOptions(strategy="hsdp", shard_size=size), placed)
    with pytest.raises(TrainingError, match="give --shard-size 2 or 4, or use --strategy fsdp"):
        shard_size(RunOptions(strategy="hsdp", shard_size=3), placed)
    alone = layout(RunOptions(), _world(1, 3, 0, 0))
    for size in (None, 2):
        with pytest.raises(TrainingError, match="no --shard-size fits 3 processes; use --strategy fsdp"):
            shard_size(RunOptions(strategy="hsdp", shard_size=size), alone)
    gpus(1)  # each task sees one GPU, and Lightning counts machines of one process
    assert shard_size(RunOptions(strategy="hsdp"), layout(RunOptions(), _world(2, 4, 0, 0))) == 4


def test_a_strategy_of_the_config_counts_unless_the_command_chooses() -> None:
    section = load_config(tiny_config(strategy="hsdp", shard_size=4)).training
    options = RunOptions.from_section(section, strategy="auto")
    assert (options.strategy, options.shard_size) == ("hsdp", 4)
    assert RunOptions.from_section(section, strategy="fsdp").strategy == "fsdp"


def test_one_process_splits_nothing(tmp_path: Path) -> None:
    for strategy in ("ddp", "fsdp", "hsdp"):
        run = tiny_run(tmp_path, name=strategy, strategy=strategy)
        assert isinstance(run.trainer.strategy, SingleDeviceStrategy)


def test_what_lightning_says_of_each_process_is_left_out() -> None:
    said = logging.getLogger("lightning.fabric.utilities.distributed")
    level = said.getEffectiveLevel()
    with quiet_lightning():
        assert not said.isEnabledFor(logging.INFO)
    assert said.getEffectiveLevel() == level


def test_only_steps_that_differ_are_searched_for_idle_weights(gpus: Any) -> None:
    gpus(2)
    placed = layout(RunOptions(), _world(1, 2, 0, 0))
    for alike, batches in ((True, 1), (False, 1), (True, 2)):
        strategy: Any = lightning_strategy(RunOptions(accum_batches=batches), placed, alike)
        settings = strategy._ddp_kwargs
        known = alike and batches == 1  # torch learns it from the first batch, which must be exchanged then
        assert settings["static_graph"] is known
        assert settings["find_unused_parameters"] is not known
        assert settings["gradient_as_bucket_view"]


def test_a_torch_that_splits_weights_on_gpus_alone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = layout(RunOptions(), _world(1, 2, 0, 0))
    options = RunOptions(strategy="fsdp", accelerator="cpu")
    assert isinstance(lightning_strategy(options, placed, True), SplitWeights)
    monkeypatch.setattr(torch.cpu, "Stream", object)  # as of torch 2.6
    with pytest.raises(TrainingError, match="--strategy fsdp on CPUs needs a newer torch than"):
        lightning_strategy(options, placed, True)
