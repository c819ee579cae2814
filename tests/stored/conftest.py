"""A hub of the test's own, and clients of huggingface_hub that know no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stable_audio import network
from tests.stored.stub_hub import StubHub, stub_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    """A hub without repositories, for clients in this process with an empty cache and no token."""
    from huggingface_hub import constants

    with stub_hub() as state:
        # What the variables HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE set when the library is imported.
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        template = state.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        monkeypatch.setattr("urllib.request.getproxies", dict)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        network.hub_in_reach.cache_clear()
        yield state
        network.hub_in_reach.cache_clear()
