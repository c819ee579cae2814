"""examples/editing.py: every edit runs on the quickstart's model, and its figures mean what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio.factory import create_model_from_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "model_configs" / "quickstart" / "quickstart.json"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("editing_example", ROOT / "examples" / "editing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench(example: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model_from_config(CONFIG)
    return example.Bench(model.eval(), tmp_path_factory.mktemp("sounds"), 1)


@pytest.fixture(autouse=True)
def few_steps(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "SETTINGS", {"steps": 1, "cfg_scale": 1.0})


def test_an_untrained_model_keeps_the_samples_and_misses_the_notes(example: Any, bench: Any) -> None:
    for rows in (example.inpainting(bench, 1), example.repair(bench, 1), example.continuation(bench, 1)):
        told = example.summary(rows)
        assert told["kept samples equal"] == "100%"
    assert example.summary(example.inpainting(bench, 1))["pitch and timbre"] == "0%"
    assert example.summary(example.loops(bench))["exact length"] == "100%"


def test_ways_begin_at_their_start(example: Any, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "MIXES", (0.0, 1.0))
    told = example.summary(example.interpolation(bench))
    assert told["prompts: distance at 0 (dB)"] == told["noise: distance at 0 (dB)"] == "0.00"
    assert float(told["noise: distance at 1 (dB)"]) > 0


def test_rising_values_may_fall_by_a_tenth_of_their_range(example: Any) -> None:
    assert example._rising([0.0, 1.0, 0.95, 2.0])
    assert not example._rising([0.0, 1.0, 0.7, 2.0])


def test_the_seam_of_a_loop_lies_in_the_middle(example: Any) -> None:
    assert example._seam(np.arange(6.0)).tolist() == [3, 4, 5, 0, 1, 2]
