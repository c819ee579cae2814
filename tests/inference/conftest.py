"""What several tests of generation use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inference import tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The weights of a tiny model, and its model file."""
    return tiny.save(tmp_path_factory.mktemp("model"), tiny.config())
