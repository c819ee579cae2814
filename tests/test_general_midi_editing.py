"""examples/editing_general_midi.py: its figures mean what they say."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio.factory import create_model_from_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "model_configs" / "examples" / "general_midi.json"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    module = importlib.import_module("editing_general_midi")
    monkeypatch.setattr(module, "SETTINGS", {"steps": 1, "cfg_scale": 1.0})
    yield module
    for name in ("editing_general_midi", "general_midi", "general_midi_judge"):
        sys.modules.pop(name, None)


def test_an_untrained_model_keeps_the_samples_and_misses_the_pitch(example: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model_from_config(CONFIG).eval()
    tone = 0.3 * np.sin(2 * np.pi * 261.63 * np.arange(27_562) / model.sample_rate)
    note = SimpleNamespace(samples=tone, caption="soft flute playing C4", instrument="flute", pitch=60)
    heard = SimpleNamespace(hear=lambda clips: ["flute"] * len(clips))
    shares = example.inpainted(model, [note], heard, (0.5, np.inf))
    assert shares["kept samples equal"] == shares["instrument of the whole"] == 1
    assert shares["pitch of the part"] == shares["both"] == 0
    assert example.looped(model, [note])["exact number of samples"] == 1


def test_a_jump_is_a_click(example: Any) -> None:
    tone = np.sin(2 * np.pi * 300 * np.arange(22_050) / 22_050)
    jump = tone + 0.5 * (np.arange(22_050) > 11_000)
    assert example.has_clicks(jump, [tone], 22_050)
    assert not example.has_clicks(tone, [tone], 22_050)
