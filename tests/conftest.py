"""Settings that every test shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from stable_audio.characters import fault, shown

# The tests run tiny models, where threads cost more than they give, and one process per core runs anyway.
# Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests say whether something holds, not how long it takes on a machine that does other work, too.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape halves of surrogate pairs in reports, which the processes of pytest-xdist send in UTF-8."""
    report = yield
    report.sections = [(title, shown(text)) for title, text in report.sections]
    if report.longrepr is not None and fault(text := str(report.longrepr)) is not None:
        report.longrepr = shown(text)
    return report


@pytest.fixture(autouse=True)
def float32_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `--dtype auto` and `--precision auto` be float32 on any CPU; tests of these themselves undo it."""
    for name in ("stable_audio.inference.precision", "stable_audio.training.precision"):
        if name in sys.modules:
            monkeypatch.setattr(sys.modules[name], "bfloat16_gain", lambda *_, **__: 1.0)


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs start without a plan of their memory and a look at 10,000 items, which take ten times as long
    as the steps of a test; tests of these themselves undo it."""
    summary = sys.modules.get("stable_audio.training.summary")
    if summary is not None:
        monkeypatch.setattr(summary, "planned", lambda *_, **__: None)
    foresight = sys.modules.get("stable_audio.data.foresight")
    if foresight is not None:
        assert foresight.count_refusals.__kwdefaults__ is not None
        monkeypatch.setitem(foresight.count_refusals.__kwdefaults__, "most", 50)
