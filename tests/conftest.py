"""Settings that every test shares."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from stable_audio.characters import fault, shown
from tests.quick import quicken

# The tests run tiny models, where threads cost more than they give, and one process per core runs anyway.
# Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests say whether something holds, not how long it takes on a machine that does other work, too.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Quicken what the files have imported, and leave it out of garbage collections, which would look at a
    million objects each time."""
    quicken()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape halves of surrogate pairs in reports, which the processes of pytest-xdist send in UTF-8."""
    report = yield
    report.sections = [(title, shown(text)) for title, text in report.sections]
    if report.longrepr is not None and fault(text := str(report.longrepr)) is not None:
        report.longrepr = shown(text)
    return report


@pytest.fixture(autouse=True)
def quick_starts() -> None:
    quicken()  # again, since a test may have loaded more
