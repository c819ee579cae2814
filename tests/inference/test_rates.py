"""The speed that a device can reach: by data sheet, or measured without touching the random state."""

from __future__ import annotations

import pytest
import torch

from stable_audio.inference import rates
from stable_audio.inference.rates import data_sheet_rate, measured_rate, peak_rate

CPU = torch.device("cpu")


def test_a_measured_rate_is_what_a_product_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "SIZES", {"cpu": 8})
    monkeypatch.setattr(rates, "best_seconds", lambda work, device, clock: (work(), 0.5)[1])
    state = torch.get_rng_state()
    assert measured_rate(CPU, torch.float32) == 2 * 8**3 / 0.5
    assert peak_rate(CPU, torch.bfloat16) == 2 * 8**3 / 0.5
    assert torch.equal(torch.get_rng_state(), state)


def test_the_shortest_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.1, 1.0, 3.0, 5.0, 5.5])
    assert rates.best_seconds(lambda: None, CPU, rounds=2, clock=lambda: next(times)) == 0.5


def test_listed_cards_have_the_rate_of_their_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for name, rate in {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA H200": 989e12,
        "Some Card": None,
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert data_sheet_rate(cuda, torch.bfloat16) == rate
        assert data_sheet_rate(cuda, torch.float32) is None
    assert data_sheet_rate(CPU, torch.bfloat16) is None
