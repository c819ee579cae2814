"""What the sweep knows about how near comparisons come to their tolerance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tolerances import BELOW, ToleranceLog, nearest, recording


def _entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("compare", "default", "options", "ratio"),
    [
        (torch.allclose, (1e-5, 1e-8), {"atol": 1e-3, "rtol": 0.0}, 0.5),
        (np.allclose, (1e-5, 1e-8), {"atol": 0.0, "rtol": 1e-3}, 0.5),
        (torch.testing.assert_close, None, {"atol": 1e-3, "rtol": 1e-3}, 0.25),
        (np.testing.assert_allclose, (1e-7, 0.0), {"rtol": 1e-3}, 0.5),
    ],
)
def test_the_ratio_of_error_to_tolerance(
    tmp_path: Path,
    compare: Callable[..., Any],
    default: tuple[float, float] | None,
    options: dict[str, float],
    ratio: float,
) -> None:
    log = tmp_path / "log"
    actual, expected = torch.tensor([1.0005, 1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    recording(compare, default, ToleranceLog(log))(actual, expected, **options)
    (entry,) = _entries(log)
    assert entry["ratio"] == pytest.approx(ratio, rel=1e-9)
    assert entry["place"].startswith("tests/test_tolerances.py:")
    assert "test_the_ratio_of_error_to_tolerance" in entry["test"]


def test_containers_and_defaults(tmp_path: Path) -> None:
    log = tmp_path / "log"
    compare = recording(torch.testing.assert_close, None, ToleranceLog(log))
    compare(
        {"a": [torch.tensor(5e-6)], "exact": torch.tensor(3)},
        {"a": [torch.tensor(0.0)], "exact": torch.tensor(3)},
    )
    (entry,) = _entries(log)
    assert entry["ratio"] == pytest.approx(0.5, rel=1e-6)


def test_asserts_that_an_error_is_small() -> None:
    for text in (
        "2.5e-06 < 1e-05",
        "tensor(2.5000e-06) <= 1e-05\n +  where ...",
        "np.float64(2.5e-06) < 1e-05",
    ):
        numbers = BELOW.match(text)
        assert numbers is not None
        assert float(numbers[1]) / float(numbers[2]) == pytest.approx(0.25, rel=1e-9)
    assert BELOW.match("3 < 4") is None
    assert BELOW.match("'1.5 < 2.5' in 'text'") is None


def test_the_nearest_of_each_place_from_both_sides() -> None:
    ratios = [("a", 0.1), ("a", 0.8), ("a", 0.5), ("b", 1.25), ("c", 100.0), ("d", 0.2), ("e", 0.0)]
    entries = [{"test": f"test_{place}", "place": place, "ratio": ratio} for place, ratio in ratios]
    near = nearest([*entries, {"test": "failed", "failed": True}], above=0.3)
    assert near == [(0.8, "a", "test_a"), (1.25, "b", "test_b")]
