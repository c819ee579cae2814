"""What log lines say of speed follows from what the processes have measured."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from stable_audio.audio.padding import PaddingMask
from stable_audio.data.base import Batch, Packed
from stable_audio.inference.memory.operations import Operations
from stable_audio.training.speed.clock import PARTS, PartTimes
from stable_audio.training.speed.columns import BatchCount, Measured, Nominal, speed_columns


def _measured(own: float, waiting: float, **changes: Any) -> Measured:
    times = PartTimes(2, {**dict.fromkeys(PARTS, 0.0), "forward": 2 * own, "backward": 2 * waiting})
    return Measured(
        **{"steps": 2, "seconds": 4.0, "memory": 2**30, "times": times, "count": BatchCount(2, 2, 2, 0.5)}
        | changes
    )


def test_what_is_measured_survives_being_gathered() -> None:
    measured = _measured(1.0, 0.5, count=BatchCount(2, 1.5, 1.25, 0.5))
    assert len(measured.numbers()) == 4 + len(PARTS) + len(fields(BatchCount))
    assert Measured.from_numbers(measured.numbers()) == measured


def test_columns_of_one_process() -> None:
    nominal = Nominal(Operations(products=6e12, self_attention=2e12, recomputed=5e12), peak=10e12)
    columns = speed_columns([_measured(1.5, 0.5)], nominal=nominal, batch_seconds=10.0)
    assert columns["speed/steps_per_second"] == 0.5
    assert columns["speed/audio_seconds_per_second"] == 5.0
    assert columns["speed/padding_share"] == 0.25
    assert columns["speed/peak_memory_gib"] == 1.0
    assert columns["speed/tflops"] == pytest.approx(2 * 8 / 4)
    assert columns["speed/mfu"] == pytest.approx(0.4)
    assert columns["speed/time_forward"] == 1.5
    assert columns["speed/time_backward"] == 0.5
    assert sum(columns[f"speed/time_{part}"] for part in PARTS) == 2.0
    assert "speed/slowest_process" not in columns


def test_the_slowest_process_is_named_with_what_it_costs() -> None:
    """All take 2 s per step: the third computes 1.4 s of it, and the others wait for it in the exchange."""
    processes = [_measured(1.0, 1.0), _measured(0.9, 1.1), _measured(1.4, 0.6, memory=2**31)]
    columns = speed_columns(processes, nominal=None, batch_seconds=30.0)
    assert columns["speed/slowest_process"] == 2
    assert columns["speed/slowest_process_lag"] == pytest.approx((1.4 - 1.1) / 2)
    assert columns["speed/audio_seconds_per_second_per_device"] == pytest.approx(5.0)
    assert columns["speed/peak_memory_gib"] == 2.0
    assert "speed/mfu" not in columns


def test_times_that_have_not_arrived_are_left_out() -> None:
    columns = speed_columns([_measured(1.0, 1.0, times=PartTimes())], nominal=None, batch_seconds=1.0)
    assert not [name for name in columns if name.startswith("speed/time_")]


def test_short_and_packed_batches_count_what_they_compute() -> None:
    whole = Operations(products=100.0, cross_attention=20.0, self_attention=8.0)
    count = BatchCount()
    count.add(Batch(torch.zeros(2, 3, 16), [{}, {"padding_mask": PaddingMask(4, 16)}]), items=2, row=16)
    assert count.operations(whole) == 128.0
    assert count.padding == pytest.approx(0.375)
    half = BatchCount()
    half.add(Batch(torch.zeros(2, 3, 8), [{}, {}]), items=2, row=16)
    assert half.operations(whole) == 60 + 2
    packed = BatchCount()  # three clips in two rows of 16 frames; the tensor pads them to the longest
    packed.add(Batch(torch.zeros(3, 3, 16), [{}] * 3, Packed([16, 8, 4], 0, 3)), items=2, row=16)
    assert packed.operations(whole) == pytest.approx(120 * 28 / 32 + 8 * (256 + 64 + 16) / 512)
    assert packed.padding == 0.0
