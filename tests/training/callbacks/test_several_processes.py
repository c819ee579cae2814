"""What processes tell each other after every step does not make a host wait for its GPU."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.training.callbacks import base
from stable_audio.training.callbacks.base import FlagsOfSteps, on_any_process
from stable_audio.training.callbacks.log_line import SharedValues
from stable_audio.training.callbacks.stop import StopOnSignal
from stable_audio.training.guards.checks import CheckedModule
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.window import SigmaBuckets, Window
from tests.host_waits import DEVICE, no_waits

CPU = torch.device("cpu")


def _trainer(device: torch.device = CPU, **more: Any) -> Any:
    return SimpleNamespace(
        world_size=2, is_global_zero=True, strategy=SimpleNamespace(root_device=device), **more
    )


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that tells the same as this one; who waits for it at a barrier fails."""

    def barrier(*args: Any, **options: Any) -> None:
        raise AssertionError("the host waits for all that its GPU has to do")

    monkeypatch.setattr(torch.distributed, "barrier", barrier)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value, **options: value.mul_(2))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes have a GPU each."""
    monkeypatch.setattr(base, "answers_late", lambda trainer: True)


@pytest.mark.usefixtures("two")
def test_processes_add_up_without_a_barrier() -> None:
    module = CheckedModule()
    module._trainer = _trainer()
    agree = module._agreement()
    assert agree is not None
    assert float(agree(torch.tensor(1.5))) == 3.0
    buckets, window = SigmaBuckets(), Window()
    buckets.add(torch.tensor([0.25, 0.25]), torch.tensor([1.0, 2.0]))
    window.add({"train/loss": 4.0})
    shared: Any = SimpleNamespace(window=window, buckets=buckets)
    line = SharedValues.take(_trainer(), shared, 1)
    assert line.values() == {"train/loss": 4.0, "model/loss_all_0.2": 1.5}
    assert line.sigma is not None
    assert line.sigma.values()[1, 2] == 4  # items of both
    assert on_any_process(_trainer(), False, True) == [False, True]


@pytest.mark.usefixtures("two", "late")
def test_asking_after_every_step_does_not_wait_for_the_device() -> None:
    flags = FlagsOfSteps()
    with no_waits():
        for _ in range(3):
            flags._pending = None  # that of the last step has arrived by now
            assert flags.exchange(_trainer(DEVICE), True, False) == [False, False]


@pytest.mark.usefixtures("two", "late")
def test_flags_are_told_one_step_later_unless_it_must_be_at_once() -> None:
    flags, trainer = FlagsOfSteps(), _trainer()
    told = [flags.exchange(trainer, each) for each in (False, True, False, False)]
    assert told == [[False], [False], [True], [False]]
    assert flags.exchange(trainer, True, at_once=True) == [True]
    assert flags.exchange(trainer, False) == [False]  # and not once more


class _Checkpoints:
    """Counts what is saved."""

    paused = False

    def __init__(self, outdated: Callable[[int], bool] = lambda step: False) -> None:
        self.is_outdated, self.saved = outdated, list[str]()

    def save(self, trainer: Any, module: Any, *, numbered: bool = True) -> None:
        self.saved.append("numbered" if numbered else "last")


def _stopping(checkpoints: _Checkpoints, **options: Any) -> tuple[StopOnSignal, StopRequest]:
    request: Any = StopRequest()
    given: Any = checkpoints
    return StopOnSignal(request, given, **options), request


@pytest.mark.usefixtures("two", "late")
def test_a_signal_ends_the_run_one_step_later_and_at_once_where_demos_are_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stable_audio.training.callbacks.stop.of_all", lambda number: [number, None])
    for pauses, last in (([], 3), ([2], 2), ([3], 3)):
        callback, request = _stopping(_Checkpoints(), pauses=pauses)
        trainer, module = _trainer(should_stop=False), None
        for step in range(1, 9):
            request.signal = signal.SIGTERM if step >= 2 else None
            callback.after_step(trainer, module, step)  # type: ignore[arg-type]
            if trainer.should_stop:
                break
        assert step == last
        assert request.exit_status == 143


@pytest.mark.usefixtures("two", "late")
def test_a_signal_in_the_last_step_is_known_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stable_audio.training.callbacks.stop.of_all", lambda number: [number, signal.SIGTERM]
    )
    callback, request = _stopping(_Checkpoints())
    trainer = _trainer(should_stop=False, global_step=5)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda value, **options: value.copy_(_elsewhere(value))
    )
    callback.after_step(trainer, None, 5)  # type: ignore[arg-type]
    assert not trainer.should_stop
    callback.on_train_end(trainer, None)
    assert request.exit_status == 143


@pytest.mark.usefixtures("two")
def test_a_signal_after_the_last_step_was_asked_for_is_known_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stable_audio.training.callbacks.stop.of_all", lambda number: [number, None])
    callback, request = _stopping(_Checkpoints())
    trainer = _trainer(should_stop=False, global_step=5)
    callback.after_step(trainer, None, 5)  # type: ignore[arg-type]
    request.signal = signal.SIGTERM
    callback.on_train_end(trainer, None)
    assert trainer.should_stop
    assert request.exit_status == 143


def _elsewhere(value: Tensor) -> Tensor:
    """Another process has got a signal to end."""
    return (torch.arange(len(value)) == 0) + value


@pytest.mark.usefixtures("two", "late")
def test_what_is_asked_once_is_saved_once() -> None:
    checkpoints = _Checkpoints()
    callback, request = _stopping(checkpoints)
    request.save = True
    for step in range(1, 5):
        callback.after_step(_trainer(), None, step)  # type: ignore[arg-type]
    assert checkpoints.saved == ["numbered"]
    checkpoints = _Checkpoints(outdated=lambda step: not checkpoints.saved)
    callback, _ = _stopping(checkpoints)
    for step in range(1, 5):
        callback.after_step(_trainer(), None, step)  # type: ignore[arg-type]
    assert checkpoints.saved == ["last"]
