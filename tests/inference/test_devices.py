"""Which device is taken."""

from __future__ import annotations

import pytest
import torch

from stable_audio.inference.devices import best_device


@pytest.mark.parametrize(("gpus", "mps", "best"), [(2, False, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool, best: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == torch.device(best)
    assert best_device("cpu", rank=1) == torch.device("cpu")


def test_processes_of_a_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [best_device(rank=r).index for r in range(4)] == [0, 1, 0, 1]
    assert best_device("cuda", rank=3) == torch.device("cuda:1")
    assert best_device("cuda:0", rank=3) == torch.device("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:7", "mps"])
def test_an_absent_device_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device.*{name}"):
        best_device(name)
