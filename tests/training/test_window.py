"""Means between log lines, and the loss by noise level."""

from __future__ import annotations

import pytest
import torch

from stable_audio.training.window import SigmaBuckets, Window


def test_means_by_name_and_a_fresh_start() -> None:
    window = Window()
    window.add({"a": torch.tensor(1.0), "b": 4.0})
    window.add({"a": torch.tensor(3.0)})
    assert {k: float(v) for k, v in window.means().items()} == {"a": 2.0, "b": 4.0}
    assert window.means() == {}


def test_nothing_keeps_the_graph() -> None:
    window = Window()
    window.add({"a": torch.ones((), requires_grad=True) * 2})
    assert not window.means()["a"].requires_grad


def test_buckets() -> None:
    buckets = SigmaBuckets()
    assert buckets.pop() is None
    buckets.add(torch.tensor([0.0, 0.05, 0.95, 1.0]), torch.tensor([1.0, 3.0, 5.0, 7.0]))
    buckets.add(torch.tensor([0.31]), torch.tensor([2.0]))
    totals = buckets.pop()
    assert totals is not None
    means = SigmaBuckets.means(totals)
    assert means == {"model/loss_all_0.0": 2.0, "model/loss_all_0.3": 2.0, "model/loss_all_0.9": 6.0}
    # Two processes add their totals up.
    assert SigmaBuckets.means(totals + totals) == means
    assert buckets.pop() is None


def test_empty_ranges_are_left_out_not_zero() -> None:
    buckets = SigmaBuckets()
    buckets.add(torch.tensor([0.5]), torch.tensor([1.5]))
    assert SigmaBuckets.means(buckets.pop()) == {"model/loss_all_0.5": pytest.approx(1.5)}  # type: ignore[arg-type]
