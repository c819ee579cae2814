"""The parts of a step take the time that they take, and nobody waits to know it."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import pytest
import torch

from stable_audio.training.speed import clock as clock_module
from stable_audio.training.speed.clock import StepClock


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(clock_module.time, "perf_counter", now)
    return now


def test_times_go_to_the_part_that_is_open(now: Now) -> None:
    clock = StepClock()
    clock.start(torch.device("cpu"))
    now.seconds += 1
    with clock.part("data"):
        now.seconds += 2
    clock.switch("forward")
    now.seconds += 4
    with clock.part("conditioning"):
        now.seconds += 8
        with clock.part("pretransform"):
            now.seconds += 16
        now.seconds += 32
    now.seconds += 64
    clock.switch(None)  # a demo
    with clock.part("pretransform"):
        now.seconds += 1000
    clock.switch("other")
    clock.end_step()
    times = clock.take()
    assert times.steps == 1
    assert times.seconds == {"other": 1, "data": 2, "forward": 68, "conditioning": 40, "pretransform": 16}
    assert clock.take().seconds == {"other": 0}


def test_a_part_that_fails_ends(now: Now) -> None:
    clock = StepClock()
    clock.start(torch.device("cpu"))
    with contextlib.suppress(KeyError), clock.part("data"):
        now.seconds += 2
        raise KeyError
    now.seconds += 1
    clock.switch("forward")
    assert clock.take().seconds == {"data": 2, "other": 1, "forward": 0}


def test_a_clock_that_was_not_started_or_is_stopped_times_nothing(now: Now) -> None:
    clock = StepClock()
    for _ in range(2):
        with clock.part("data"):
            now.seconds += 1
        clock.switch("forward")
        clock.end_step()
        assert (clock.take().steps, clock.take().seconds) == (0, {})
        clock.start(torch.device("cpu"))
        clock.stop()


class FakeEvent:
    """An event of a device that is `behind` events behind the host."""

    recorded: ClassVar[list[FakeEvent]] = []
    behind = 3
    now = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self) -> None:
        assert not hasattr(self, "at") or self.query(), "is used again before the device has passed it"
        self.at = FakeEvent.now
        FakeEvent.recorded.append(self)

    def query(self) -> bool:
        return self not in FakeEvent.recorded[len(FakeEvent.recorded) - FakeEvent.behind :]

    def elapsed_time(self, later: FakeEvent) -> float:
        assert self.query()
        assert later.query(), "the host would have to wait"
        return 1000 * (later.at - self.at)


def test_events_of_a_device_are_read_when_it_has_passed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "recorded", [])
    clock = StepClock()
    clock.start(torch.device("cuda"))
    seconds: dict[str, float] = {}
    steps = 0

    def take() -> None:
        nonlocal steps
        times = clock.take()
        steps += times.steps
        for part, value in times.seconds.items():
            seconds[part] = seconds.get(part, 0.0) + value

    for _ in range(5):
        for part, took in (("forward", 1.0), ("backward", 2.0), ("optimizer", 4.0), (None, 8.0)):
            clock.switch(part)
            FakeEvent.now += took
        clock.end_step()
        take()
    assert steps < 5
    monkeypatch.setattr(FakeEvent, "behind", 0)
    clock.switch("other")
    take()
    assert steps == 5
    assert {k: v for k, v in seconds.items() if k != "other"} == {
        "forward": 5,
        "backward": 10,
        "optimizer": 20,
    }
    assert len(set(map(id, FakeEvent.recorded))) < len(FakeEvent.recorded)
