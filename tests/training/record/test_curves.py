"""The curves of a run's page show what is usual, and mark what is not."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from stable_audio.training.record.curves import MOST_POINTS, curves, value_range


def _page(folder: Path, losses: Sequence[float]) -> str:
    rows = "".join(f"{step},{loss}\n" for step, loss in enumerate(losses, 1))
    (folder / "metrics.csv").write_text(f"step,train/loss\n{rows}")
    return "".join(curves(folder / "metrics.csv"))


def _heights(page: str) -> list[float]:
    (points,) = re.findall(r'<polyline points="([^"]*)"', page)
    return [float(point.split(",")[1]) for point in points.split()]


def _losses(count: int) -> list[float]:
    return [2.0 + math.cos(step / count * 3) for step in range(count)]


def test_a_spike_does_not_flatten_the_curve(tmp_path: Path) -> None:
    """Neither a short curve nor one whose points are means over many steps."""
    for count in (5, 12, 60, 20 * MOST_POINTS):
        losses = _losses(count)
        plain = _heights(_page(tmp_path, losses))
        losses[count // 2] = 1e12
        page = _page(tmp_path, losses)
        assert max(_heights(page)) - min(_heights(page)) > 0.9 * (max(plain) - min(plain))
        assert f"1 value outside, marked at the edge, the farthest 1e+12 at step {count // 2 + 1}" in page
        assert page.count("M") == 1
        losses[count // 2] = 1e6
        page = _page(tmp_path, losses)
        assert max(_heights(page)) - min(_heights(page)) > 0.9 * (max(plain) - min(plain))


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    losses = _losses(20 * MOST_POINTS)
    losses[77:82] = [math.nan, math.inf, -math.inf, 1e308, 1e308]
    page = _page(tmp_path, losses)
    assert "nan" not in page
    assert "inf" not in page
    assert "outside" not in page
    assert len(_heights(page)) == MOST_POINTS


def test_the_first_losses_and_ramps_are_drawn_whole() -> None:
    assert value_range([3.0, 1.0]) == (1.0, 3.0)
    assert value_range([80.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.4]) == (1.4, 80.0)
    assert value_range([1.0, 2.0, 1e6]) == (1.0, 1e6)  # of three, none is usual
    assert value_range([float(step) for step in range(100)]) == (0.0, 99.0)
    assert value_range([1.0] * 30 + [0.5]) == (0.5, 1.0)
    assert value_range([math.exp(-step / 20) for step in range(100)])[1] == 1.0


def test_many_far_values_are_no_outliers() -> None:
    assert value_range([1.0, 1.1] * 45 + [9.0] * 10) == (1.0, 9.0)
