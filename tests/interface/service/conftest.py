"""One service for the tests of a file that does not end it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.inference import tiny
from tests.inference.test_adapters import adapter_at
from tests.interface.service.running import RunningService, published_model, serving

pytest.importorskip("fastapi")

MODELS = {"tiny": tiny.config(), "gaps": tiny.config(inpaint=True)}


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    first, second = (published_model(folder / "models" / name, config) for name, config in MODELS.items())
    adapter = adapter_at(folder / "pad.safetensors")
    checkpoints = [str(first), str(second)]
    weights, config = first / "model.safetensors", first / "model_config.json"
    with serving(
        folder / "out", weights, config, "--adapter", str(adapter), checkpoints=checkpoints
    ) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client
