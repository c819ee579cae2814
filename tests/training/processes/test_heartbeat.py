"""A process of a run that dies is named, and the others end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import PrefixStore, TCPStore

from stable_audio.training.callbacks.alive import StayAlive
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes import heartbeat
from stable_audio.training.processes.heartbeat import Heartbeat, is_lost_connection
from tests.training.building import tiny_config, write_files

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store() -> Any:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def _client(store: Any) -> Any:
    return PrefixStore("alive", TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False))


def _heartbeat(store: Any, rank: int, size: int = 2, **options: Any) -> Heartbeat:
    given = {"seconds": 0.4, "give_up": lambda _: None, "host": f"host-{rank}", **options}
    return Heartbeat(_client(store), rank=rank, size=size, **given)


def _fall_silent(beat: Heartbeat) -> None:
    """As a killed process does."""
    beat._stop.set()
    beat._thread.join()


def test_a_silent_process_is_named_to_all_others(store: Any) -> None:
    told: list[str] = []
    gone = threading.Event()

    def give_up(sentence: str) -> None:
        told.append(sentence)
        gone.set()

    beats = [
        _heartbeat(store, rank, 3, give_up=give_up if rank == 2 else lambda _: None).start()
        for rank in (0, 1, 2)
    ]
    _fall_silent(beats[1])
    beats[0].leave()  # its main thread ends by itself
    for rank in (0, 2):
        verdict = beats[rank].wait_for_verdict()
        assert verdict is not None
        assert verdict.startswith("process 1 of 3 on host-1 has given no sign of life for ")
    assert gone.wait(20)
    assert told == [beats[2].verdict]


def test_the_first_process_is_watched_by_the_others(store: Any) -> None:
    first, second = (_heartbeat(store, rank).start() for rank in (0, 1))
    _fall_silent(first)
    verdict = second.wait_for_verdict()
    assert verdict is not None
    assert verdict.startswith("process 0 of 2 on host-0 has given no sign")
    second.stop()


def test_a_run_that_was_stopped_and_goes_on_accuses_nobody(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    beat = _heartbeat(store, 0, seconds=40)
    beat._store.set("beat 1", "7")
    beat._beat()
    now[0] += 1000  # all processes were stopped, and this one goes on first
    beat._beat()
    for _ in range(10):
        now[0] += 4
        beat._beat()
        assert beat.verdict is None
    now[0] += 4
    beat._beat()
    assert beat.verdict is not None
    assert "no sign of life for 44 s" in beat.verdict


def test_a_lost_connection_shortens_the_wait_of_all(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 2 sees it; the first one, which watches process 1, does not."""
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    first, second = (_heartbeat(store, rank, 3, seconds=40) for rank in (0, 2))
    first._store.set("beat 1", "7")
    second._lost.set()
    for _ in range(4):
        second._beat()
        first._beat()
        assert first.verdict is None
        now[0] += 4
    second._beat()
    first._beat()
    assert first.verdict is not None
    assert first.verdict.startswith("process 1 of 3 on an unknown machine has given no sign of life for 16 s")
    second._beat()
    assert second.verdict == first.verdict


def test_a_store_that_is_gone_is_told(store: Any) -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise torch.distributed.DistNetworkError("connection refused")

    beat = _heartbeat(store, 1).start()
    while 0 not in beat._hosts:
        beat._store.set("host 0", "host-0")
        time.sleep(0.01)
    beat._store = Gone()
    assert (
        beat.wait_for_verdict()
        == "process 0 of 2 on host-0 cannot be reached any more: it has died, or its machine"
    )
    beat.stop()


def test_an_error_is_told_to_the_others_at_once_and_an_end_in_order_is_none(store: Any) -> None:
    first, second, third = (_heartbeat(store, rank, 3, seconds=30).start() for rank in (0, 1, 2))
    third.stop()
    second.stop("OutOfMemory: too little\nmore")
    assert (
        first.wait_for_verdict()
        == "process 1 of 3 on host-1 has ended with an error (OutOfMemory: too little)"
    )
    first.stop("another")


def test_processes_that_end_in_order_are_not_accused(store: Any) -> None:
    first, second = (_heartbeat(store, rank).start() for rank in (0, 1))
    second.stop()
    time.sleep(0.8)
    assert first.verdict is None
    first.stop()


def test_a_child_that_ends_with_an_error_is_named(store: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    beat = _heartbeat(store, 0, seconds=8, children=[child]).start()
    assert beat.wait_for_verdict() == "process 1 of 2 on an unknown machine has ended with status 3"
    beat.stop("error")


def test_a_child_that_hangs_is_ended_with_its_parent(store: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    _heartbeat(store, 0, children=[child]).stop("error")
    assert child.wait(20) == -signal.SIGKILL


def test_errors_of_communication_name_the_process(store: Any) -> None:
    alive = StayAlive(seconds=0.4)
    with pytest.raises(RuntimeError, match="defect"), alive.blaming():
        raise RuntimeError("a defect")
    alive.heartbeat = _heartbeat(store, 0).start()
    _fall_silent(_heartbeat(store, 1).start())
    with pytest.raises(TrainingError, match=r"process 1 of 2 on host-1 .*--recover"), alive.blaming():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer [127.0.0.1]:7871")
    assert not is_lost_connection(RuntimeError("CUDA error"))
    assert is_lost_connection(torch.distributed.DistBackendError("NCCL error"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_killed_process_ends_the_run_and_is_named(tmp_path: Path, strategy: str) -> None:
    flags = ["--name", "run", "--save-dir", str(tmp_path), "--devices", "2", "--num-workers", "0"]
    flags += ["--strategy", strategy]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *write_files(tmp_path, tiny_config()), *flags]
        + ["--accelerator", "cpu", "--no-progress", "--dead-after", "20"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 4):
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "error: process 1 of 2 on " in errors
    assert "has ended with status -9" in errors
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "dead process" in [entry["kind"] for entry in record["incidents"]]
    # The parts of the weights that are gone with the process cannot be gathered.
    assert (tmp_path / "run" / "last.ckpt").is_file() == (strategy == "ddp")
