"""A signal that comes while `train` is still importing is acted upon once the run can, as a later one is."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.cli import main
from stable_audio.training import trainer
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes.meeting import Patience
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.saving.lock import RunLock
from tests.training.building import tiny_config, tiny_run, write_files
from tests.training.processes.test_stopping import _signal_after, _slurm_job
from tests.training.saving.test_lock import _hold
from tests.training.worlds import fork_server

ROOT = Path(__file__).parents[3]

SIGNALLED = """
import importlib.abc, os, sys

class Signalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
        return None

sys.meta_path.insert(0, Signalled())
"""
"""A `sitecustomize` that sends a signal to its own process when a module is about to be imported."""

TAKEN_AWAY = "JobId=4711 JobState=COMPLETING Reason=None PreemptTime=2026-01-01T00:00:00 SuspendTime=None"


def _scontrol(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str = TAKEN_AWAY) -> Path:
    """A `scontrol` that writes down every call and answers the same to all."""
    told = _slurm_job(folder, monkeypatch)
    (folder / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {told}\necho "{answer}"\n')
    return told


def _train(
    folder: Path, module: str, number: int, *flags: str, entry: tuple[str, ...] = ("train.py",)
) -> subprocess.CompletedProcess[str]:
    """`train` in a process that gets a signal when it begins to import a module."""
    (folder / "sitecustomize.py").write_text(SIGNALLED.format(module=module, number=int(number)))
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [*write_files(folder, tiny_config()), "--save-dir", str(folder), "--accelerator", "cpu"]
    command += ["--batch-size", "2", "--num-workers", "0", "--max-steps", "3", "--precision", "32-true"]
    return subprocess.run(
        [sys.executable, *entry, *command, *flags],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("number", "module", "calls"),
    [
        (signal.SIGUSR1, "stable_audio.cli.train", ["requeue 4711"]),
        (signal.SIGUSR1, "torch", ["requeue 4711"]),
        (signal.SIGTERM, "torch", ["show job --oneliner 4711", "requeue 4711"]),
    ],
)
def test_a_signal_while_importing_puts_the_job_back(
    tmp_path: Path, number: signal.Signals, module: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _scontrol(tmp_path, monkeypatch)
    result = _train(tmp_path, module, number, "--requeue")
    assert result.returncode == 128 + number, result.stderr
    assert told.read_text().splitlines() == calls
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 1


def test_without_requeue_it_saves_and_training_goes_on(tmp_path: Path) -> None:
    result = _train(tmp_path, "torch", signal.SIGUSR1, entry=("-m", "stable_audio", "train"))
    assert result.returncode == 0, result.stderr
    steps = sorted(p.stem for p in (tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert steps == ["step=00000001", "step=00000003"]


def test_what_an_early_signal_means_is_decided_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for requeue in (True, False):
        caplog.clear()
        request = StopRequest(save_ends=None).install()
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert "SIGUSR1: acted on when the run begins" in caplog.text
            assert (request.asked, request.save) == (False, True)
            request.decide(save_ends=requeue)
        finally:
            request.restore()
        assert (request.asked, request.save) == (requeue, not requeue)
        assert request.exit_status == (138 if requeue else 0)


def test_the_command_gives_the_handlers_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert main(["train", "--dataset-config", str(tmp_path / "none.json"), "--model-config", "none"]) == 2
    with pytest.raises(SystemExit):
        main(["train", "--no-such-flag"])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "calls"), [(TAKEN_AWAY, 2), ("Reason=None PreemptTime=None", 1)])
def test_pre_emption_of_processes_that_wait_for_each_other_puts_the_job_back(
    tmp_path: Path, answer: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have nothing to save, and end at once."""
    told = _scontrol(tmp_path, monkeypatch, answer)

    def waits(*_: object, stop: StopRequest, **__: object) -> None:
        stop.install()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            Patience(60, stop=stop).pause("another process")
        finally:
            stop.restore()

    monkeypatch.setattr(trainer, "meet", waits)
    files = write_files(tmp_path, tiny_config())
    assert main(["train", *files, "--save-dir", str(tmp_path), "--accelerator", "cpu", "--requeue"]) == 143
    assert told.read_text().splitlines() == ["show job --oneliner 4711", "requeue 4711"][:calls]


def test_a_task_of_an_array_puts_itself_back_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last task, SLURM_JOB_ID is the number of the whole array."""
    told = _scontrol(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    run = tiny_run(tmp_path, max_steps=9, requeue=True)
    _signal_after(run, 1, signal.SIGUSR1)
    _signal_after(run, 1, signal.SIGTERM)
    assert run.start() == 143
    assert told.read_text().splitlines() == ["show job --oneliner 4711_0", "requeue 4711_0"]


def test_two_tasks_of_an_array_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    _scontrol(tmp_path, monkeypatch)
    context = fork_server()
    ready = context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", ready))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(TrainingError, match="in use by another run") as alone:
            tiny_run(tmp_path, max_steps=1, requeue=True)
        assert "job array" not in str(alone.value)
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
        with pytest.raises(TrainingError, match=r"choose another --name; tasks of a job array need one each"):
            tiny_run(tmp_path, max_steps=1, requeue=True)
    finally:
        other.kill()
        other.join()
    RunLock(tmp_path / "run").release()


def test_without_scontrol_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container; before anything is built, and at the end if it is gone by then."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", str(tmp_path))
    files = write_files(tmp_path, tiny_config())
    assert main(["train", *files, "--save-dir", str(tmp_path), "--accelerator", "cpu", "--requeue"]) == 2
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told == (
        "error: --requeue needs SLURM's `scontrol`, which is not in the PATH; in a container, bind SLURM's "
        "commands and configuration of the host into it, else leave --requeue out"
    )
    assert not (tmp_path / "run").exists()


def test_a_scontrol_that_is_gone_at_the_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _scontrol(tmp_path, monkeypatch)
    run = tiny_run(tmp_path, max_steps=9, requeue=True)
    (tmp_path / "bin" / "scontrol").unlink()
    _signal_after(run, 1, signal.SIGUSR1)
    assert run.start() == 138
    assert "job 4711 was not put back into the queue" in caplog.text
    assert "`scontrol requeue 4711` on a machine of the cluster starts it again" in caplog.text
