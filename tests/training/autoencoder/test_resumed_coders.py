"""Autoencoders under `fsdp`: they go on to the same bits, and show and validate what one process does."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.audio.io import read_audio
from stable_audio.pretransforms.bottlenecks.base import std_over_processes
from tests import tiny
from tests.training.autoencoder import test_autoencoder
from tests.training.autoencoder.test_worlds_of_coders import NAMES, config_of
from tests.training.building import DATASET, tiny_run
from tests.training.processes.test_resumed_worlds import STOP, differences, train_and_continue
from tests.training.processes.test_worlds import options_of
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

KEEPING = ["softnorm", "rvq"]
"""Bottlenecks that learn without gradients: a running scale, and codes."""


def resumed_config(name: str) -> dict[str, Any]:
    """The coders of `config_of`, and two with bottlenecks that learn without gradients."""
    if name not in KEEPING:
        config = config_of(name)
    else:
        config = config_of("oobleck")
        config["model"]["encoder"]["config"]["latent_dim"] = 4
        settings = {k: v for k, v in tiny.BOTTLENECKS[name].items() if k != "noise_augment_dim"}
        config["model"]["bottleneck"] = {"type": name, "config": settings}
    config["training"]["ema"] = {"update_after_step": 0}
    return config


@pytest.mark.slow
@pytest.mark.parametrize("names", [*zip(NAMES[::2], NAMES[1::2]), KEEPING], ids=" and ".join)
def test_split_coders_go_on_to_the_same_bits(tmp_path: Path, names: Sequence[str]) -> None:
    options = {**options_of(2), "strategy": "fsdp"}
    steps = STOP + 1
    run_world(2, train_and_continue, tmp_path, resumed_config, list(names), options, steps)
    assert differences(tmp_path, list(names), steps=steps) == {}


def _deviation_of_parts(values: torch.Tensor) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    part = (values[:5], values[5:])[rank]
    torch.testing.assert_close(std_over_processes(part), values.std(), atol=0, rtol=1e-6)
    halves = part.half().repeat(10_000, 1)  # 65,504 is the largest number of float16
    spread = values.half().float().repeat(10_000, 1).std()
    torch.testing.assert_close(std_over_processes(halves), spread, atol=0, rtol=1e-3)


def test_a_deviation_is_that_of_all_processes() -> None:
    values = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) + 4
    run_world(2, _deviation_of_parts, values)
    assert torch.equal(std_over_processes(values), values.std())


def _shown(folder: Path, name: str, options: dict[str, Any]) -> None:
    logging.disable(logging.WARNING)
    config = test_autoencoder.tiny_config(
        {"time": {"weights": {"l1": 1.0}}},  # a mean over items
        # Adam would magnify what is rounded of gradients that are 0.
        optimizer_configs={"autoencoder": {"optimizer": {"type": "SGD", "config": {"lr": 1e-3}}}},
        demo={"demo_every": 2, "max_demos": 6},
        use_ema=True,
        ema={"update_after_step": 0},
    )
    validation = {**DATASET, "split": "val", "num_clips": 3}
    given = {"max_steps": 4, "val_dataset": validation, "val_every": 2, **options}
    run = tiny_run(folder, config, name=name, **given)
    assert run.start() == 0
    assert run.demos is not None
    assert run.demos.failure is None


def _values(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k.startswith("val/")} for row in csv.DictReader(file)]


def _sounds(folder: Path) -> dict[str, torch.Tensor]:
    paths = sorted((folder / "demos").rglob("*.wav"))
    return {str(path.relative_to(folder)): read_audio(path)[0] for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_processes_show_and_validate_what_one_does(tmp_path: Path, strategy: str) -> None:
    _shown(tmp_path, "one", {"batch_size": 4})
    run_world(2, _shown, tmp_path, "two", {"batch_size": 2, "devices": "auto", "strategy": strategy})
    one, two = _values(tmp_path / "one"), _values(tmp_path / "two")
    assert [bool(row["val/stft"]) for row in one] == [False, True, False, True]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert [float(v) for v in b.values() if v] == pytest.approx([float(v) for v in a.values() if v], 1e-3)
    sounds, others = _sounds(tmp_path / "one"), _sounds(tmp_path / "two")
    assert sounds.keys() == others.keys()
    assert len(sounds) == 2 * 12
    for name, sound in sounds.items():
        torch.testing.assert_close(others[name], sound, atol=0 if "original" in name else 2e-4, rtol=0)


@pytest.mark.slow
def test_demos_of_a_continued_run_show_the_clips_that_it_began_with(tmp_path: Path) -> None:
    options = {"batch_size": 2, "checkpoint_every": 3}
    config = test_autoencoder.tiny_config(demo={"demo_every": 2, "max_demos": 3})
    tiny_run(tmp_path, config, name="whole", max_steps=4, **options).start()
    tiny_run(tmp_path, config, name="parts", max_steps=3, **options).start()
    tiny_run(tmp_path, config, name="parts", max_steps=4, recover=True, **options).start()
    whole, parts = _sounds(tmp_path / "whole"), _sounds(tmp_path / "parts")
    assert len(whole) == 2 * 6
    assert whole.keys() == parts.keys()
    assert all(torch.equal(sound, parts[name]) for name, sound in whole.items())
