"""A pytest plugin that writes down how near each numerical comparison came to its tolerance.

    python -m pytest -p tests.tolerances --tolerance-log FILE

Of every comparison by torch, numpy and pytest.approx, and of asserts that an error is below a number (with
`-o enable_assertion_pass_hook=true`), FILE gets a line of JSON: test, place, ratio of error to tolerance.
Failed tests get one as well. `scripts/sweep.py` reads it.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
# Not whole ones, which are counts.
NUMBER = r"(?:tensor\()?(?:np\.float\d+\()?(\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+)(?:, dtype=\S+?)?\)?"
BELOW = re.compile(rf"^{NUMBER} <=? {NUMBER}(?:\n|$)")


class ToleranceLog:
    """Appends to `path`; several processes may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ratio(self, ratio: float, place: str | None = None) -> None:
        """A comparison: 1 is the edge of its tolerance."""
        place = place if place is not None else _place()
        if place is not None:
            test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
            self._write({"test": test, "place": place, "ratio": ratio})

    def failure(self, test: str) -> None:
        self._write({"test": test, "failed": True})

    def _write(self, entry: Mapping[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Recorder:
    """The hooks of pytest that fill a log."""

    def __init__(self, log: ToleranceLog) -> None:
        self._log = log

    def pytest_assertion_pass(self, item: pytest.Item, lineno: int, orig: str, expl: str) -> None:
        numbers = BELOW.match(expl)
        # Libraries that tests use may be rewritten by pytest, too: those lines are in other files.
        here = orig[:20] in linecache.getline(str(item.path), lineno)
        if here and numbers is not None and float(numbers[2]) > 0:
            self._log.ratio(float(numbers[1]) / float(numbers[2]), f"{_relative(str(item.path))}:{lineno}")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        outcome: Any = yield
        if outcome.get_result().failed:
            self._log.failure(item.nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tolerance-log", type=Path, help="file for the ratios of errors to tolerances")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--tolerance-log")
    if path is not None:
        log = ToleranceLog(path)
        config.pluginmanager.register(Recorder(log))
        watch_comparisons(log)


def watch_comparisons(log: ToleranceLog) -> None:
    """Put recording versions in the place of the functions that compare, for the rest of the process."""
    close = (1e-5, 1e-8)
    for owner, name, default in (
        (torch, "allclose", close),
        (torch.Tensor, "allclose", close),
        (np, "allclose", close),
        (np.testing, "assert_allclose", (1e-7, 0.0)),
        (torch.testing, "assert_close", None),
    ):
        setattr(owner, name, recording(getattr(owner, name), default, log))
    scalar: Any = type(pytest.approx(1.0))
    equal = scalar.__eq__

    def approx(self: Any, actual: Any) -> bool:
        if isinstance(actual, (int, float, np.number)) and isinstance(self.expected, (int, float)):
            _record(log, abs(float(actual) - self.expected), self.tolerance)
        return equal(self, actual)

    scalar.__eq__ = approx


def recording(
    compare: Callable[..., Any], default: tuple[float, float] | None, log: ToleranceLog
) -> Callable[..., Any]:
    """`compare`, with the ratio of each comparison written to `log`.

    Args:
        default: rtol and atol where none are given; None = those of torch.testing.assert_close.
    """

    def recorded(actual: Any, expected: Any, *args: Any, **kwargs: Any) -> Any:
        asked = dict(zip(("rtol", "atol"), args)) | {k: v for k, v in kwargs.items() if k in ("rtol", "atol")}
        for a, b in _pairs(actual, expected):
            rtol, atol = default if default is not None else _of_dtype(a)
            rtol, atol = (asked.get(k, v) for k, v in (("rtol", rtol), ("atol", atol)))
            _record_arrays(log, a, b, rtol if rtol is not None else 0.0, atol if atol is not None else 0.0)
        return compare(actual, expected, *args, **kwargs)

    return recorded


def _pairs(actual: Any, expected: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The tensors of equal shape, in the places where nested containers have them."""
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        for key in actual.keys() & expected.keys():
            yield from _pairs(actual[key], expected[key])
    elif isinstance(actual, (list, tuple)) and isinstance(expected, (list, tuple)):
        if all(isinstance(v, (int, float)) for v in (*actual, *expected)) and len(actual) == len(expected):
            yield torch.tensor(actual, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)
            return
        for a, b in zip(actual, expected):
            yield from _pairs(a, b)
    else:
        try:
            a, b = (torch.as_tensor(v).detach() for v in (actual, expected))
            a, b = torch.broadcast_tensors(a, b)
        except (TypeError, ValueError, RuntimeError):
            return
        yield a, b


def _of_dtype(tensor: torch.Tensor) -> tuple[float, float]:
    """The defaults of torch.testing.assert_close, as its documentation lists them."""
    tolerances = {torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5)}
    tolerances |= {t: (1.3e-6, 1e-5) for t in (torch.float32, torch.complex64)}
    tolerances |= {t: (1e-7, 1e-7) for t in (torch.float64, torch.complex128)}
    return tolerances.get(tensor.dtype, (0.0, 0.0))


def _record_arrays(
    log: ToleranceLog, actual: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float
) -> None:
    if not actual.numel() or (not rtol and not atol):
        return
    wide = torch.complex128 if actual.is_complex() or expected.is_complex() else torch.float64
    a, b = actual.cpu().to(wide), expected.cpu().to(wide)
    allowed, error = atol + rtol * b.abs(), (a - b).abs()
    ratios = (error / allowed).where(error > 0, 0.0)
    ratios = ratios[torch.isfinite(ratios)]
    if ratios.numel():
        log.ratio(float(ratios.max()))


def _record(log: ToleranceLog, error: float, tolerance: float) -> None:
    if tolerance > 0 and error < float("inf"):
        log.ratio(error / tolerance)


def _place() -> str | None:
    """File and line of the nearest test on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and path.startswith(str(TESTS)):
            return f"{_relative(path)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _relative(path: str) -> str:
    return str(Path(path).relative_to(TESTS.parent))


def nearest(entries: Sequence[Mapping[str, Any]], *, above: float) -> list[tuple[float, str, str]]:
    """(ratio, place, test) of the comparisons nearest to their edge, one per place.

    Ratios from `above` to 1 have just passed; ratios from 1 to 1 / `above` have failed, or were to differ and
    just do so.
    """
    worst: dict[str, tuple[float, str, str]] = {}
    for entry in entries:
        ratio, place = entry.get("ratio", 0.0), entry.get("place", "")
        distance = min(ratio, 1 / ratio) if ratio > 0 else 0.0
        if distance >= above and (place not in worst or distance > min(worst[place][0], 1 / worst[place][0])):
            worst[place] = (ratio, place, entry["test"])
    return sorted(worst.values(), key=lambda w: -min(w[0], 1 / w[0]))
