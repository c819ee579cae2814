"""Tensors that one CUDA stream makes for another."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.nn import transfer
from stable_audio.nn.transfer import MadeBeside


class _Stream:
    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def wait_event(self, event: _Event) -> None:
        self.told.append(f"{self.name} waits for {event.of}")


class _Event:
    """An event of whatever stream is the present one when it is recorded."""

    present: _Stream
    of = ""

    def record(self) -> None:
        self.of = self.present.name


class _OnGPU:
    is_cuda = True

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def record_stream(self, stream: _Stream) -> None:
        self.told.append(f"{self.name} is kept for {stream.name}")


def test_the_stream_that_uses_them_waits_until_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    beside, step = (_Stream(name, told) for name in ("beside", "step"))
    monkeypatch.setattr(transfer.torch.cuda, "Event", _Event)
    monkeypatch.setattr(transfer.torch.cuda, "current_stream", lambda: _Event.present)
    monkeypatch.setattr(_Event, "present", beside, raising=False)
    features: Any = _OnGPU("features", told)
    made = MadeBeside(features)
    assert told == []
    monkeypatch.setattr(_Event, "present", step)
    assert made.here() == (features,)
    assert told == ["step waits for beside", "features is kept for step"]


def test_tensors_of_the_host_are_there_at_once() -> None:
    tensors = torch.ones(2), torch.zeros(3)
    assert MadeBeside(*tensors).here() == tensors
