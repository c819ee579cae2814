"""Settings that every test shares."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# The tests run tiny models, where threads cost more than they give, and one process per core runs anyway.
# Set before torch is imported, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests say whether something holds, not how long it takes on a machine that does other work, too.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def float32_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `--dtype auto` and `--precision auto` be float32 on any CPU; tests of these themselves undo it."""
    for name in ("stable_audio.inference.precision", "stable_audio.training.precision"):
        if name in sys.modules:
            monkeypatch.setattr(sys.modules[name], "bfloat16_gain", lambda *_, **__: 1.0)
