"""Checkpoints are written in the background: from a copy, in order, whole, and without losing errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.checkpoints import read_checkpoint
from stable_audio.training.errors import TrainingError
from stable_audio.training.run import Run
from stable_audio.training.saving import checkpoint_io
from stable_audio.training.saving import saved as saved_module
from stable_audio.training.saving.writer import BackgroundWriter, HostCopies, in_parts
from tests.training.building import tiny_config, tiny_run
from tests.training.saving.test_resume import DROPOUT, assert_same_checkpoint

ROOT = Path(__file__).parents[3]
Pair = namedtuple("Pair", "left right")


def test_a_copy_is_equal_and_independent() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state = module.state_dict()
    original = {
        "state": state,
        "nested": [{"a": (1, 2.5, None)}, Pair(torch.arange(3), "x")],
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(7),
    }
    copied = HostCopies()(original)
    assert type(copied["state"]) is OrderedDict
    assert copied["state"]._metadata == state._metadata  # type: ignore[attr-defined]
    assert isinstance(copied["nested"][1], Pair)
    assert copied["nested"][0] == original["nested"][0]
    assert copied["nested"][0] is not original["nested"][0]
    for key in ("transposed", "empty", "number"):
        assert torch.equal(copied[key], original[key])
        assert copied[key].stride() == original[key].stride()
    expected = {k: v.clone() for k, v in state.items()}
    with torch.no_grad():
        for tensor in state.values():
            tensor.fill_(9)
    assert all(torch.equal(copied["state"][k], v) for k, v in expected.items())


def test_memory_that_is_shared_is_copied_once() -> None:
    whole = torch.arange(8.0)
    copies = HostCopies()
    first, again = copies({"a": whole, "b": whole[2:4]}), copies([whole[4:]])
    assert first["a"].untyped_storage().data_ptr() == first["b"].untyped_storage().data_ptr()
    assert first["a"].untyped_storage().data_ptr() == again[0].untyped_storage().data_ptr()
    assert (first["b"].tolist(), again[0].tolist()) == ([2, 3], [4, 5, 6, 7])
    # A tensor that is gone must not lend its address to another one.
    for value in range(50):
        assert copies(torch.full((1000,), float(value))).eq(value).all()


def test_jobs_run_in_order_and_the_caller_does_not_wait() -> None:
    writer, gate, order = BackgroundWriter(), threading.Event(), []
    with writer.group():
        writer.write(1, lambda v: (gate.wait(30), order.append(v)))
        writer.write(2, order.append)
    assert order == []
    gate.set()
    writer.wait()
    assert order == [1, 2]


def test_a_group_waits_for_the_one_before() -> None:
    writer, gate, order = BackgroundWriter(), threading.Event(), []
    writer.write(1, lambda v: (gate.wait(30), order.append(v)))
    threading.Timer(0.05, gate.set).start()
    with writer.group():
        assert order == [1]


def test_copies_are_freed_when_they_are_on_disk() -> None:
    writer, alive = BackgroundWriter(), []
    with writer.group():
        writer.write(torch.zeros(4), lambda v: alive.append(weakref.ref(v)))
    writer.wait()
    assert alive[0]() is None


def test_an_error_is_handed_to_the_one_who_waits() -> None:
    writer = BackgroundWriter()

    def fail(_: Any) -> None:
        raise ValueError("a mistake of the program")

    writer.write(1, fail)
    with pytest.raises(ValueError, match="a mistake of the program"):
        writer.wait()
    writer.wait()


def test_without_memory_for_a_copy_it_is_written_at_once(caplog: pytest.LogCaptureFixture) -> None:
    class TooLarge:
        def __deepcopy__(self, _: Any) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    writer, written, value = BackgroundWriter(), [], TooLarge()
    writer.write(value, written.append)
    assert written == [value]
    assert "can't allocate memory" in caplog.text
    plain, value = BackgroundWriter(background=False), torch.zeros(1)
    plain.write(value, written.append)
    assert written[1] is value


def _slow_disk(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    save = checkpoint_io.save_torch_file

    def slow(content: Any, path: Path) -> None:
        time.sleep(seconds)
        save(content, path)

    monkeypatch.setattr(checkpoint_io, "save_torch_file", slow)


def test_training_goes_on_and_the_file_holds_the_step_it_was_taken_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**DROPOUT)
    tiny_run(tmp_path, config, name="two", max_steps=2, background_checkpoints=False).start()
    save, run = checkpoint_io.save_torch_file, tiny_run(tmp_path, config, max_steps=4, checkpoint_every=2)
    steps: list[int] = []

    def late(content: Any, path: Path) -> None:
        deadline = time.monotonic() + 30
        if path.name.startswith(".step=00000002"):
            while run.module.position < 4 and time.monotonic() < deadline:
                time.sleep(0.01)
        steps.append(run.module.position)
        save(content, path)

    monkeypatch.setattr(checkpoint_io, "save_torch_file", late)
    assert run.start() == 0
    assert steps == [4, 4]  # the first one was written when all steps were done
    early, late_file = tmp_path / "two" / "last.ckpt", tmp_path / "run" / "checkpoints" / "step=00000002.ckpt"
    assert_same_checkpoint(early, late_file)
    first, second = (read_checkpoint(p.with_suffix(".safetensors")) for p in (early, late_file))
    assert first.info == second.info
    assert all(torch.equal(v, second.tensors[k]) for k, v in first.tensors.items())
    assert early.stat().st_size == late_file.stat().st_size


def test_the_end_of_the_run_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_disk(monkeypatch, 0.3)
    tiny_run(tmp_path, max_steps=1).start()
    assert read_checkpoint(tmp_path / "run" / "last.ckpt").info["step"] == 1
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").info["step"] == "1"


def _die_at_step_1(run: Run, message: str) -> None:
    step = run.module.training_step

    def die(*args: Any, **options: Any) -> Any:
        if run.trainer.global_step == 1:
            raise TrainingError(message)
        return step(*args, **options)

    run.module.training_step = die  # type: ignore[method-assign]


def test_a_run_that_dies_waits_for_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_disk(monkeypatch, 0.3)
    run = tiny_run(tmp_path, max_steps=4, checkpoint_every=1)
    _die_at_step_1(run, "a loss of step 1")
    with pytest.raises(TrainingError, match="a loss of step 1"):
        run.start()
    assert read_checkpoint(tmp_path / "run" / "last.ckpt").info["step"] == 1


def test_a_mistake_while_writing_ends_the_run_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("a mistake of the program")

    monkeypatch.setattr(saved_module, "save_inference_file", fail)
    with pytest.raises(KeyError, match="a mistake of the program"):
        tiny_run(tmp_path, max_steps=1).start()


def test_why_a_run_dies_comes_before_what_has_become_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another process is gone, with which this one trains and writes."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(saved_module, "save_inference_file", fail)
    run = tiny_run(tmp_path, max_steps=4, checkpoint_every=1)
    _die_at_step_1(run, "process 1 of 2 has died")
    with pytest.raises(TrainingError, match="process 1 of 2 has died"):
        run.start()


def test_old_checkpoints_go_last_and_later_ones_stay(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    tiny_run(tmp_path, max_steps=4, checkpoint_every=1, keep=2).start()
    assert sorted(p.name for p in folder.glob("*.ckpt")) == ["step=00000003.ckpt", "step=00000004.ckpt"]
    # A run that goes back to step 3 must not take step 4 for the newest of its own.
    options = {"checkpoint_every": 1, "keep": 1, "ckpt_path": str(folder / "step=00000003.ckpt")}
    (folder / "step=00000004.ckpt").rename(folder / "step=00000009.ckpt")
    tiny_run(tmp_path, max_steps=5, **options).start()
    assert sorted(p.name for p in folder.glob("*.ckpt")) == ["step=00000005.ckpt", "step=00000009.ckpt"]


KILLED_AT_EACH_CALL = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from stable_audio.checkpoints import read_checkpoint
from stable_audio.training.saving.recovery import newest_whole
from tests.quick import quicken
from tests.training.building import tiny_run

quicken()
folder, kind = Path(sys.argv[1]), sys.argv[2]
suffix = {"file": "ckpt", "shards": "shards"}[kind]

def train(name, kill_at):
    # kill_at: which call to the file system, counted from the second checkpoint on
    calls = [0]
    first = folder / name / {"file": "last.ckpt", "shards": "checkpoints/step=00000001.shards"}[kind]
    options = {"checkpoint_format": kind, "checkpoint_every": 1, "keep": 1}
    run = tiny_run(folder, name=name, max_steps=2, logger="none", **options)
    def counted(function):
        def call(*args, **options):
            # Of the many tensors of a part, each is saved by itself, all to one file.
            if not isinstance(args[0], torch.Tensor) and (calls[0] or first.exists()):
                calls[0] += 1
                if calls[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)
        return call
    for owner, names in ((os, ("replace", "link", "fsync", "unlink", "rmdir")), (torch, ("save",))):
        for n in names:
            setattr(owner, n, counted(getattr(owner, n)))
    Path.unlink = lambda self, missing_ok=False: os.unlink(self) if self.exists() else None
    run.start()
    return calls[0]

def forked(function, *args):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, json.dumps(function(*args)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None

total = forked(train, "whole", 0)
found = {"total": total, "kills": []}
for kill_at in range(1, total + 1):
    name = f"killed{kill_at}"
    killed = forked(train, name, kill_at) is None
    broken = []
    paths = [path for end in (suffix, "safetensors") for path in (folder / name).rglob(f"*.{end}")]
    for path in paths:
        if ".partial" not in path.name:
            try:
                read_checkpoint(path)
            except ValueError as error:
                broken.append(str(error))
    whole = newest_whole(folder / name)
    steps = sorted(p.name for p in (folder / name / "checkpoints").glob(f"step=*.{suffix}"))
    found["kills"].append([killed, broken, whole and whole[1]["stable_audio"]["step"], steps])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "shards"])
def test_a_kill_at_any_call_leaves_whole_files(tmp_path: Path, kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED_AT_EACH_CALL, str(tmp_path), kind]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["total"] > 10
    newest = []
    for killed, broken, step, steps in found["kills"]:
        assert killed
        assert broken == []
        # The old checkpoint goes when the new one has all of its names, not before.
        assert 1 <= len(steps) <= 2
        newest.append(step)
    assert newest == sorted(newest)
    assert set(newest) == {1, 2}


@pytest.mark.parametrize("size", [1, 8, 19])
def test_copies_in_parts_are_whole(size: int) -> None:
    original = torch.arange(size, dtype=torch.float32)
    copied = in_parts(original.untyped_storage(), torch.empty(10, dtype=torch.uint8))
    assert torch.equal(torch.empty(0).set_(copied), original)
    assert copied.data_ptr() != original.untyped_storage().data_ptr()
