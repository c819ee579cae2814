"""How long a run takes is said early."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from stable_audio.training.callbacks import estimate
from stable_audio.training.callbacks.estimate import EstimateTime, duration


def _told(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    first: float,
    step: float,
    begin: int = 0,
    later: tuple[int, float] | None = None,
) -> list[tuple[int, str]]:
    """What is logged after which step; the first step takes `first` seconds, each later one `step`, and those
    from the number in `later` on the time there."""
    now = 1000.0
    monkeypatch.setattr(estimate, "time", SimpleNamespace(monotonic=lambda: now))
    callback, trainer = EstimateTime(max_steps=100), SimpleNamespace(global_step=begin, is_global_zero=True)
    unused: Any = None
    callback.on_train_start(trainer, unused)  # type: ignore[arg-type]
    told = []
    with caplog.at_level(logging.INFO):
        for number in range(begin + 1, 101):
            now += first if number == begin + 1 else later[1] if later and number >= later[0] else step
            trainer.global_step = number
            caplog.clear()
            callback.on_train_batch_end(trainer, unused, unused, unused, number)  # type: ignore[arg-type]
            told += [(number, message) for message in caplog.messages]
    return told


def test_the_first_step_does_not_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Steps 2 to 6 take 10 s, and 94 of 2 s are left.
    said = "training takes about 3 minutes more at this speed (2.0 seconds per step, 6 of 100 steps are done)"
    assert _told(monkeypatch, caplog, first=50.0, step=2.0) == [(6, said)]


def test_a_continued_run_takes_what_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Step 51 is the first, steps 52 to 71 take 10 s, and 29 of 0.5 s are left.
    said = (
        "training takes about 14 seconds more at this speed (2.0 steps per second, 71 of 100 steps are done)"
    )
    assert _told(monkeypatch, caplog, first=3.0, step=0.5, begin=50) == [(71, said)]


def test_another_speed_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    # Steps 2 to 6 take 10 s; steps 7 to 26 take 20 s, and 74 of 1 s are left.
    told = _told(monkeypatch, caplog, first=50.0, step=2.0, later=(7, 1.0))
    assert [number for number, _ in told] == [6, 26]
    assert told[1][1] == (
        "training takes about 74 seconds more at its present speed "
        "(1.0 steps per second, 26 of 100 steps are done)"
    )


def test_almost_the_same_speed_is_not_told_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = _told(monkeypatch, caplog, first=50.0, step=2.0, later=(7, 2.3))
    assert [number for number, _ in told] == [6]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "about 1 second"),
        (89, "about 89 seconds"),
        (91, "about 2 minutes"),
        (22 * 60, "about 22 minutes"),
        (2 * 3600, "about 2.0 hours"),
        (72 * 3600, "about 3.0 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
