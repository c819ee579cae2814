"""Signals are noted, and given back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.training.errors import TrainingError
from stable_audio.training.processes import stopping
from stable_audio.training.processes.stopping import Interrupted, StopRequest
from stable_audio.training.saving.checkpoint_io import AtomicCheckpointIO
from stable_audio.training.trainer import Run
from tests.training.building import tiny_run
from tests.training.worlds import run_world


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    request = StopRequest().install()
    try:
        assert request.exit_status == 0
        os.kill(os.getpid(), number)
        assert request.exit_status == status
    finally:
        request.restore()
    assert signal.getsignal(number) is before


def test_the_second_interrupt_is_at_once() -> None:
    request = StopRequest().install()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        request.restore()


@pytest.mark.parametrize(
    ("steps", "seconds", "ends"), [(False, 0, True), (False, 60, False), (True, 0, False)]
)
def test_the_second_sigterm_is_at_once_before_the_first_step(
    steps: bool, seconds: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "SAME_SECONDS", seconds)  # `timeout` sends one twice at the same time
    request = StopRequest().install()
    request.steps = steps
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) if ends else nullcontext():
            os.kill(os.getpid(), signal.SIGTERM)
        assert request.exit_status == 143
    finally:
        request.restore()


@pytest.mark.parametrize("steps", [False, True])
def test_only_signals_that_end_at_once_when_they_come_again_say_so(
    steps: bool, caplog: pytest.LogCaptureFixture
) -> None:
    says = {signal.SIGINT: True, signal.SIGTERM: not steps, signal.SIGUSR1: False}
    for number, expected in says.items():
        request = StopRequest(save_ends=True).install()
        request.steps = steps
        caplog.clear()
        try:
            os.kill(os.getpid(), number)
        finally:
            request.restore()
        assert ("stops at once, without one" in caplog.text) is expected, number


def test_sigterm_after_the_signal_for_the_queue_lets_the_first_step_be_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopping, "SAME_SECONDS", 0)
    request = StopRequest(save_ends=True).install()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal == signal.SIGTERM
    finally:
        request.restore()


def test_signals_change_nothing_once_training_is_over() -> None:
    """Another process may still write the last checkpoint, which the death of this one would cut off."""
    request = StopRequest(save_ends=True).install()
    request.over = True
    try:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert (request.asked, request.exit_status) == (False, 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        request.others = signal.SIGUSR1  # of a run that was ended, the last signal counts
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.exit_status == 143
    finally:
        request.restore()


@pytest.mark.parametrize(("number", "status"), [(None, 0), (signal.SIGUSR1, 138)])
def test_signals_are_noted_until_all_processes_are_done(
    tmp_path: Path, number: signal.Signals | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _slurm_job(tmp_path, monkeypatch)
    run = tiny_run(tmp_path, max_steps=2 if number is None else 50, requeue=True)
    if number is not None:
        _signal_after(run, 2, number)
    wait, handlers = run._wait_for_the_others, set[Any]()

    def waits() -> None:
        handlers.update(signal.getsignal(each) for each in stopping.SIGNALS)
        wait()

    run._wait_for_the_others = waits  # type: ignore[method-assign]
    assert run.start() == status
    assert handlers == {run.stop._receive}


def test_a_run_stops_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = tiny_run(tmp_path, max_steps=50)
    end_batch = run.module.end_batch

    def interrupted(*, stepped: bool) -> None:
        end_batch(stepped=stepped)
        if run.module.position == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    run.module.end_batch = interrupted  # type: ignore[method-assign]
    assert run.start() == 143
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_before_the_first_step_is_not_lost(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=50)
    run.stop.install()
    os.kill(os.getpid(), signal.SIGTERM)
    assert run.start() == 143
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 1


def _kill_when_the_data_is_read(run: Run, number: signal.Signals) -> None:
    make = run.data._make_loader

    def interrupted(rank: int, world_size: int) -> Any:
        os.kill(os.getpid(), number)
        return make(rank, world_size)

    run.data._make_loader = interrupted


def test_sigterm_while_the_data_is_read_is_ours(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=50)
    _kill_when_the_data_is_read(run, signal.SIGTERM)
    assert run.start() == 143
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 1


def _signal_after(run: Run, batches: int, number: signal.Signals) -> None:
    end_batch = run.module.end_batch

    def interrupted(*, stepped: bool) -> None:
        end_batch(stepped=stepped)
        if run.module.position == batches:
            os.kill(os.getpid(), number)

    run.module.end_batch = interrupted  # type: ignore[method-assign]


def test_sigusr1_saves_and_training_goes_on(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, max_steps=4)
    _signal_after(run, 2, signal.SIGUSR1)
    assert run.start() == 0
    steps = sorted(p.stem for p in (tmp_path / "run" / "checkpoints").glob("*.ckpt"))
    assert steps == ["step=00000002", "step=00000004"]


def _slurm_job(folder: Path, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> Path:
    """A `scontrol` that writes down how it was called."""
    told = folder / "scontrol.txt"
    script = folder / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" > {told}\nexit {status}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return told


def test_requeue_saves_and_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = _slurm_job(tmp_path, monkeypatch)
    run = tiny_run(tmp_path, max_steps=50, requeue=True)
    _signal_after(run, 2, signal.SIGUSR1)
    assert run.start() == 138
    assert told.read_text() == "requeue 4711\n"
    # The same command continues where it was.
    assert tiny_run(tmp_path, max_steps=3, requeue=True).start() == 0
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["position"] == 3


@pytest.mark.parametrize(
    ("time", "reason", "calls"),
    [("2026-01-01T00:00:00", "None", 2), ("None", "TimeLimit", 2), ("None", "None", 1)],
)
def test_what_takes_the_machines_away_puts_the_job_back_and_a_cancellation_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: str, reason: str, calls: int
) -> None:
    told = _slurm_job(tmp_path, monkeypatch)
    script = tmp_path / "bin" / "scontrol"
    times = f"PreemptEligibleTime=now PreemptTime={time} SuspendTime=None"
    answer = f"JobId=4711 JobState=COMPLETING Reason={reason} {times}"
    script.write_text(f'#!/bin/sh\necho "$@" >> {told}\necho "{answer}"\n')
    run = tiny_run(tmp_path, max_steps=50, requeue=True)
    _signal_after(run, 1, signal.SIGUSR1)
    _signal_after(run, 1, signal.SIGTERM)
    assert run.start() == 143
    assert told.read_text().splitlines() == ["show job --oneliner 4711", "requeue 4711"][:calls]


def _stopped_in_a_job(folder: Path, told: Path, environment: dict[str, str]) -> None:
    """Only process 1 gets the signal, and only process 0 has something to write, which takes a while."""
    os.environ.update(environment)  # that of the test is not this process's, which comes from a server
    run = tiny_run(folder, max_steps=50, requeue=True, devices="auto")
    first = run.trainer.is_global_zero
    write, ended = AtomicCheckpointIO._write, folder / "ended"

    def slow(*args: Any, **options: Any) -> None:
        time.sleep(1.5)
        assert not ended.exists()  # srun would kill this process now
        write(*args, **options)

    AtomicCheckpointIO._write = slow  # type: ignore[method-assign]
    if not first:
        _signal_after(run, 2, signal.SIGUSR1)
    assert run.start() == 138
    assert told.read_text() == "requeue 4711\n"
    ended.touch()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
def test_processes_of_a_job_end_when_it_is_in_the_queue_whoever_got_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _slurm_job(tmp_path, monkeypatch)
    run_world(2, _stopped_in_a_job, tmp_path, told, {n: os.environ[n] for n in ("PATH", "SLURM_JOB_ID")})
    assert (tmp_path / "run" / "last.ckpt").is_file()


def test_the_script_for_slurm_starts_a_process_per_gpu_and_continues(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "scripts" / "train.sbatch"
    told = tmp_path / "told.txt"
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {told}\nexit 138\n')
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    arguments = ["--name", "two words", "--model-config", "m.json"]
    result = subprocess.run(["bash", str(script), *arguments], env=environment, check=False)
    assert result.returncode == 138  # srun's, which is that of the run
    assert told.read_text().splitlines() == [
        *["--kill-on-bad-exit=1", "python", "train.py", *arguments, "--requeue"]
    ]
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if "#SBATCH" in line]
    settings = dict(line.partition("=")[::2] for line in lines)
    assert settings["ntasks-per-node"] == settings["gpus-per-node"]
    assert {"requeue", "open-mode", "signal"} <= settings.keys()


def test_a_requeue_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _slurm_job(tmp_path, monkeypatch, status=1)
    run = tiny_run(tmp_path, max_steps=50, requeue=True)
    _signal_after(run, 1, signal.SIGUSR1)
    assert run.start() == 138
    assert "job 4711 was not put back into the queue" in caplog.text


def test_requeue_without_a_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(TrainingError, match="SLURM_JOB_ID is not set"):
        tiny_run(tmp_path, requeue=True)


def test_data_workers_leave_signals_to_their_parent(tmp_path: Path) -> None:
    # Batch systems signal every process of a job; a worker that died would take the step with it.
    run = tiny_run(tmp_path, max_steps=50, num_workers=1)
    end_batch = run.module.end_batch

    def interrupted(*, stepped: bool) -> None:
        end_batch(stepped=stepped)
        if run.module.position == 1:
            for child in multiprocessing.active_children():
                for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
                    os.kill(child.pid or 0, number)
            time.sleep(0.3)
        if run.module.position == 12:  # far more than were loaded ahead
            os.kill(os.getpid(), signal.SIGTERM)

    run.module.end_batch = interrupted  # type: ignore[method-assign]
    assert run.start() == 143
    assert load_torch_file(tmp_path / "run" / "last.ckpt")["stable_audio"]["step"] == 12
    assert not multiprocessing.active_children()
