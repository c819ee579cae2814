"""What every test of training shares."""

from __future__ import annotations

import pytest

from stable_audio.data.foresight import count_refusals
from stable_audio.training import summary


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs start without a plan of their memory and a look at 10,000 items, which take ten times as long
    as the steps of a test; tests of these themselves undo it."""
    monkeypatch.setattr(summary, "planned", lambda *_, **__: None)
    assert count_refusals.__kwdefaults__ is not None
    monkeypatch.setitem(count_refusals.__kwdefaults__, "most", 50)
