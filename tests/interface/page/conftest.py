"""One service with the page for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.inference import tiny
from tests.interface.service.running import RunningService, serving

pytest.importorskip("fastapi")


RATE = 8000
"""The lowest sample rate that every browser plays."""


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("ui")
    flags = ("--no-browser", "--title", "<b>Tiny</b> & co")
    config = tiny.config() | {"sample_rate": RATE, "sample_size": int(0.64 * RATE)}
    with serving(folder / "out", *tiny.save(folder / "model", config), *flags, command="ui") as running:
        yield running
