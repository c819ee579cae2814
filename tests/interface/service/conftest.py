"""One service for the tests of a file that does not end it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.interface.service.running import RunningService, saved_model, serving

pytest.importorskip("fastapi")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    with serving(folder / "out", *saved_model(folder / "model")) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client
