"""Signals are noted, and given back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from stable_audio.checkpoints.files import load_torch_file
from stable_audio.training.errors import TrainingError
from stable_audio.training.stopping import StopRequest
from stable_audio.training.trainer import Run
from tests.training.building import tiny_run


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
