"""Processes that meet before they train: who is missing, what differs, and who dies meanwhile."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from stable_audio.config import load_config
from stable_audio.data.world import World
from stable_audio.training.batches.loaders import Datasets
from stable_audio.training.callbacks.recording import refuse_other_clips
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.meeting import Meeting, differences
from stable_audio.training.processes.rendezvous import AGENT_STORE, meet
from stable_audio.training.processes.stopping import Interrupted, StopRequest
from stable_audio.training.record.machines import counted, machines_of
from stable_audio.training.record.surroundings import machine
from stable_audio.training.saving.resuming import Resumed
from stable_audio.training.starting.agreement import leaves, resumed_facts, start_facts
from tests.training.building import tiny_config, tiny_run
from tests.training.worlds import ended_world, free_port

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")


def _world(rank: int, port: int, *, size: int = 2, certain: bool = True) -> World:
    launcher = "torchrun" if certain else "SLURM"
    return World(rank, size, rank, size, 0, 1, launcher, "127.0.0.1", port, certain=certain)


def _met(size: int, port: int) -> list[Meeting]:
    with ThreadPoolExecutor(size) as threads:
        meetings = threads.map(lambda rank: meet(_world(rank, port, size=size), seconds=60), range(size))
        return [meeting for meeting in meetings if meeting is not None]


def _agreed(meetings: list[Meeting], facts: list[Mapping[str, str]]) -> list[str]:
    """What each process is told, "" for nothing."""

    def told(meeting: Meeting, own: Mapping[str, str]) -> str:
        try:
            meeting.agree("the start", own)
        except TrainingError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(meetings)) as threads:
        return list(threads.map(told, meetings, facts))


def test_one_process_has_nobody_to_meet() -> None:
    assert meet(World()) is None


def test_processes_that_are_about_to_do_the_same_go_on() -> None:
    meetings = _met(3, free_port())
    assert len({meeting.session for meeting in meetings}) == 1
    assert _agreed(meetings, [{"--seed": "1"}] * 3) == ["", "", ""]


def test_all_are_told_who_would_do_something_else() -> None:
    meetings = _met(3, free_port())
    told = _agreed(meetings, [{"--seed": "1", "a": "b"}, {"--seed": "1", "a": "b"}, {"--seed": "2"}])
    assert len(set(told)) == 1
    host = socket.gethostname()
    assert told[0].startswith(
        f"process 2 of 3 on {host} would not train the same as process 0 on {host}: --seed is 2 in process 2 "
        "and 1 in process 0; a is not set in process 2 and b in process 0; start all processes with the same"
    )


def test_the_first_process_learns_on_what_machines_all_are() -> None:
    meetings = _met(3, free_port())
    with ThreadPoolExecutor(3) as threads:
        first, *others = threads.map(machines_of, meetings)
    assert first == [{"host": socket.gethostname(), "processes": 3, **json.loads(json.dumps(machine()))}]
    assert others == [[], []]


def test_each_machine_counts_its_processes() -> None:
    gpus = {"gpus": [{"name": "a", "memory_bytes": 1}]}
    told = [{"host": "x", **gpus}, {"host": "x"}, {"host": "y"}, {"host": "y", "gpus": []}, {"host": "y"}]
    assert counted(told) == [
        {"host": "x", "processes": 2, **gpus},
        {"host": "y", "processes": 3, "gpus": []},
    ]


def test_a_start_takes_nothing_of_an_earlier_one_at_the_same_store() -> None:
    """As torchrun keeps its store over restarts: answers that differed before must not count again."""
    port = free_port()
    first = _met(2, port)  # keeps the store open
    assert all(_agreed(first, [{"--seed": "1"}, {"--seed": "2"}]))
    again = _met(2, port)
    assert again[0].session != first[0].session
    assert _agreed(again, [{"--seed": "1"}, {"--seed": "1"}]) == ["", ""]


def test_torch_gets_a_new_store_where_torchrun_has_kept_the_one_of_an_earlier_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In which addresses of dead processes lie."""
    monkeypatch.setenv(AGENT_STORE, "True")
    agent = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    assert [meeting.world.port for meeting in _met(2, agent.port)] == [agent.port] * 2
    again = _met(2, agent.port)
    assert os.environ[AGENT_STORE] == "False"
    first, second = (meeting.world.port for meeting in again)
    assert first == second != agent.port
    mine = torch.distributed.TCPStore("127.0.0.1", first, is_master=True, multi_tenant=True)  # as torch does
    other = torch.distributed.TCPStore("127.0.0.1", first, is_master=False)
    mine.set("a", "b")
    assert other.get("a") == b"b"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_missing_is_named(rank: int) -> None:
    awaited = "1 of 2 processes, number 1" if rank == 0 else r"process 0 at 127\.0\.0\.1:\d+"
    with pytest.raises(
        TrainingError, match=rf"waited 1 seconds for {awaited}; torchrun says that there are 2"
    ):
        meet(_world(rank, free_port()), seconds=1)


def test_a_batch_script_without_srun_does_not_wait_long() -> None:
    with pytest.raises(TrainingError, match=r"SLURM allots 2 tasks.* batch script put `srun`"):
        meet(_world(0, free_port(), certain=False), seconds=1)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            TrainingError, match=rf"port {port} of 127\.0\.0\.1 cannot be opened .*MASTER_PORT"
        ):
            meet(_world(0, port), seconds=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_machine_whose_name_nobody_knows_is_named_at_once(rank: int) -> None:
    """torch would try for minutes, and would see no signal meanwhile."""
    world = replace(_world(rank, free_port()), address="nowhere.invalid")
    began = time.monotonic()
    with pytest.raises(TrainingError, match=r"waited 1 seconds for the address of nowhere.*set MASTER_ADDR"):
        meet(world, seconds=1)
    assert time.monotonic() - began < 30


def test_a_signal_ends_the_wait() -> None:
    stop = StopRequest()
    timer = threading.Timer(0.3, lambda: setattr(stop, "signal", signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted) as caught:
        meet(_world(0, free_port()), stop=stop, seconds=60)
    assert caught.value.exit_status == 143


def test_differences_are_told_once_each() -> None:
    assert differences({"a": "1", "b": "2"}, {"a": "1", "b": "2"}, 1) == []
    assert differences({"a": "1"}, {"b": "2"}, 3) == [
        "a is not set in process 3 and 1 in process 0",
        "b is 2 in process 3 and not set in process 0",
    ]


def _facts(options: RunOptions, more: Mapping[str, Any] | None = None, **dataset: Any) -> dict[str, str]:
    files = Datasets.of({"dataset_type": "synthetic", **dataset}, None)
    return start_facts(load_config(tiny_config() | dict(more or {})), files, options)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 7},
        {"batch_size": 2},
        {"max_steps": 6},
        {"strategy": "fsdp"},
        {"name": "other"},
        {"pretrained_ckpt_path": "there.safetensors"},
        {"demos": False},
    ],
    ids=str,
)
def test_options_on_which_a_run_depends_are_compared(changed: dict[str, Any]) -> None:
    options = RunOptions()
    told = differences(_facts(options), _facts(replace(options, **changed)), 1)
    assert len(told) == 1
    assert told[0].startswith(f"--{next(iter(changed)).replace('_', '-')} is ")


def test_what_is_of_a_machine_may_differ() -> None:
    """Numbers of workers, and where things lie, such as on a disk of its own."""
    one = RunOptions(num_workers=1, save_dir="/here", pretrained_ckpt_path="/here/model.ckpt")
    other = RunOptions(num_workers=8, save_dir="/there", pretrained_ckpt_path="/there/model.ckpt")
    assert differences(_facts(one), _facts(other), 1) == []


def test_model_and_dataset_files_are_compared_by_their_paths_in_json() -> None:
    options = RunOptions()
    rate = {"training": {"learning_rate": 3e-3}}
    told = differences(_facts(options, {"training": {"learning_rate": 1e-3}}), _facts(options, rate), 1)
    assert told == ["$.training.learning_rate in the model file is 0.003 in process 1 and 0.001 in process 0"]
    (one,) = differences(_facts(options), _facts(options, num_pitches=12), 1)
    assert one == "$.num_pitches in the dataset file is 12 in process 1 and not set in process 0"


def test_places_are_no_leaves() -> None:
    config = {
        "datasets": [{"id": "a", "path": "/x"}],
        "paths": ["/y"],
        "empty": [],
        "metadata_module": "m.py",
    }
    assert dict(leaves(config)) == {"$.datasets[0].id": "a", "$.empty": []}


def test_the_checkpoint_to_continue_is_compared() -> None:
    one = resumed_facts(Resumed(Path("run/last.ckpt"), {"stable_audio": {"step": 3}}), RunOptions())
    (told,) = differences(one, resumed_facts(None, RunOptions()), 1)
    assert told.endswith("must be shared, is none in process 1 and last.ckpt of step 3 in process 0")


def test_machines_with_other_clips_are_refused() -> None:
    ours = {"clips": 10, "names_sha256": "a", "sizes_sha256": "s", "files_not_read": 0}
    refuse_other_clips([("one", ours), ("two", ours)])
    fewer = {**ours, "clips": 9, "names_sha256": "b", "files_not_read": 1}
    message = (
        r"process 1 of 2 on two has 9 clips, not 10 as process 0 on one \(files that could not be read: "
        r"1 and 0\)"
    )
    with pytest.raises(TrainingError, match=message):
        refuse_other_clips([("one", ours), ("two", fewer)])
    with pytest.raises(TrainingError, match="has 10 clips, with other names than process 0 on one"):
        refuse_other_clips([("one", ours), ("two", {**ours, "names_sha256": "b", "sizes_sha256": "t"})])
    message = "has 10 clips, of the same names but other sizes than process 0 on one"
    with pytest.raises(TrainingError, match=message):
        refuse_other_clips([("one", ours), ("two", {**ours, "sizes_sha256": "t"})])


def _starts_apart(folder: Path, each: list[dict[str, Any]]) -> None:
    tiny_run(folder, devices="auto", max_steps=1, **each[int(os.environ["RANK"])])


def test_runs_that_differ_end_before_they_train(tmp_path: Path) -> None:
    statuses, failures = ended_world(2, _starts_apart, tmp_path, [{"seed": 1}, {"seed": 2}], left_alone=True)
    assert statuses == [1, 1]
    assert all("--seed is 2 in process 1 and 1 in process 0" in failure for failure in failures), failures


def _dies_while_building(folder: Path, how: str) -> None:
    from stable_audio.training import trainer

    def dies(*_: Any, **__: Any) -> Any:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("no such disk")

    if os.environ["RANK"] == "1":
        trainer.starting_model = dies
    tiny_run(folder, devices="auto", max_steps=1, dead_after=3.0)


@pytest.mark.parametrize("how", ["killed", "error"])
def test_a_process_that_dies_while_it_builds_is_named(how: str, tmp_path: Path) -> None:
    began = time.monotonic()
    statuses, failures = ended_world(2, _dies_while_building, tmp_path, how, left_alone=True)
    assert time.monotonic() - began < 60
    assert statuses == [1, -signal.SIGKILL if how == "killed" else 1]
    said = "no sign of life" if how == "killed" else "has ended with an error (OSError: no such disk)"
    of_first = next(failure for failure in failures if failure.startswith("process 0"))
    assert f"process 1 of 2 on {socket.gethostname()} " in of_first
    assert said in of_first
    assert "the run has not begun: start all processes again" in of_first


def _cannot_write(folder: Path) -> None:
    if os.environ["RANK"] == "1":

        def refuse(**_: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        tempfile.TemporaryFile = refuse
    tiny_run(folder, devices="auto", max_steps=1)


def test_a_process_that_cannot_write_into_the_folder_of_the_run_is_named(tmp_path: Path) -> None:
    statuses, failures = ended_world(2, _cannot_write, tmp_path, left_alone=True)
    assert statuses == [1, 1]
    of_first, of_second = sorted(failures)
    said = f"--save-dir/--name {tmp_path}/run: {tmp_path} cannot be written to (Read-only file system)"
    assert said in of_second
    told = f"process 1 of 2 on {socket.gethostname()} has ended with an error (TrainingError: {said}"
    assert told in of_first
    assert not list(tmp_path.rglob("*.ckpt"))


def _reads_other_clips(folder: Path) -> None:
    place = folder / os.environ["RANK"]
    dataset = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(place)}]}
    tiny_run(folder / "runs", dataset=dataset, devices="auto", max_steps=1).start()


def test_machines_on_whose_disks_other_clips_lie_do_not_train(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        for number in range(6 - rank):
            soundfile.write(tmp_path / str(rank) / f"{number}.wav", 0.5 * np.sin(np.arange(8192)), 4000)
    statuses, failures = ended_world(2, _reads_other_clips, tmp_path, left_alone=True)
    assert statuses == [1, 1]
    assert all("has 5 clips, not 6 as process 0" in failure for failure in failures), failures
