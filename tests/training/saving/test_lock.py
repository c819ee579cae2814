"""Two runs do not write into one folder at once."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training import trainer
from stable_audio.training.errors import TrainingError
from stable_audio.training.saving.lock import NAME, RunLock
from tests.training.building import tiny_run
from tests.training.worlds import fork_server

fcntl = pytest.importorskip("fcntl")


def _hold(folder: Path, ready: Any) -> None:
    lock = RunLock(folder)
    ready.set()
    time.sleep(100)
    lock.release()


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path: Path) -> None:
    tiny_run(tmp_path, max_steps=1).start()
    folder = tmp_path / "run"
    assert not (folder / NAME).exists()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    context = fork_server()
    ready = context.Event()
    other = context.Process(target=_hold, args=(folder, ready))
    other.start()
    assert ready.wait(60)
    for options in ({"recover": True}, {"overwrite": True}):
        with pytest.raises(TrainingError, match=rf"in use by another run \(process {other.pid} on .*--name"):
            tiny_run(tmp_path, max_steps=2, **options)
    assert {path: path.read_bytes() for path in before} == before
    other.kill()
    other.join()
    assert tiny_run(tmp_path, max_steps=2, recover=True).start() == 0
    assert not (folder / NAME).exists()


def test_a_lock_that_its_owner_removes_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the other run had ended between the opening and the locking of its file."""
    path, lock, calls = tmp_path / NAME, fcntl.lockf, []

    def late(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "lockf", late)
    held = RunLock(tmp_path)
    assert len(calls) == 2
    assert path.read_text().startswith("process ")
    held.release()
    assert not path.exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_holds_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    RunLock(tmp_path).release()


@pytest.mark.parametrize("recover", [False, True])
def test_a_run_that_ends_while_another_is_prepared_is_not_replaced(
    recover: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was judged before the other run had released it."""
    prepared = trainer.starting_model

    def meanwhile(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        assert tiny_run(tmp_path, max_steps=2).start() == 0
        return prepared(*args, **options)

    monkeypatch.setattr(trainer, "starting_model", meanwhile)
    with pytest.raises(
        TrainingError, match="another run has written there while this one was being prepared"
    ):
        tiny_run(tmp_path, max_steps=3, seed=7, recover=recover)
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 2
