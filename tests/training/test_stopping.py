"""Signals are noted, and given back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stable_audio.checkpoints.files import load_torch_file
from stable_audio.training.stopping import StopRequest
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
