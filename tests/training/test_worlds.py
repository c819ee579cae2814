"""Several processes train as one does, whatever the strategy: loss, weights, average, optimizer state."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.audio.io import read_audio
from stable_audio.backbones import BACKBONES
from stable_audio.checkpoints.files import load_torch_file
from tests import tiny
from tests.training.building import DATASET, tiny_run
from tests.training.test_adapter_settings import model_of
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
STEPS, BATCH = 20, 4
NAMES = list(BACKBONES)


def config_of(name: str) -> dict[str, Any]:
    """A tiny model with this backbone, and a step with everything random that a step has."""
    if name == "mlp":
        config = model_of("DAU1d")
        section = config["model"]["diffusion"]
        section.update(type="mlp", config={**tiny.BACKBONES["mlp"], "depth": 2})
        section["config"].pop("input_concat_dim")
    else:
        config = model_of(name)
    config["training"] = {"learning_rate": 1e-3, "cfg_dropout_prob": 0.5, "ema": {"update_after_step": 2}}
    return config


def train(folder: Path, names: Sequence[str], strategy: str, options: dict[str, Any]) -> None:
    """Train each backbone with the processes of this world."""
    logging.disable(logging.WARNING)
    for name in names:
        run = tiny_run(folder, config_of(name), **{"name": f"{name}-{strategy}", **options})
        run.module.double()  # in float32, Adam would magnify what is rounded of gradients that are 0
        run.start()


def compare(folder: Path, name: str, strategy: str) -> None:
    """A run of several processes equals that of one, to the rounding of sums."""
    one, several = folder / f"{name}-one", folder / f"{name}-{strategy}"
    for a, b in zip(_rows(one), _rows(several), strict=True):
        for key in ("train/loss", "train/grad_norm", "val/avg_loss"):
            assert (key in a) == (key in b)
            if a.get(key):
                assert float(b[key]) == pytest.approx(float(a[key]), rel=1e-6), (name, a["step"], key)
    first, second = (load_torch_file(path / "last.ckpt") for path in (one, several))
    _assert_close(first["state_dict"], second["state_dict"], name)
    averages = [content["stable_audio"]["ema"]["average"] for content in (first, second)]
    _assert_close(*averages, name)
    states = [content["optimizer_states"][0]["state"] for content in (first, second)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        _assert_close(state, states[1][number], f"{name}, optimizer {number}")


def _assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, atol=1e-9, rtol=1e-7, msg=lambda m, k=key: f"{name} {k}: {m}"
        )


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _options(processes: int, **more: Any) -> dict[str, Any]:
    return {
        "devices": "auto",
        "batch_size": BATCH // processes,
        "max_steps": STEPS,
        "gradient_clip_val": 0.5,
        "checkpoint_every": 0,
        "demos": False,
        **more,
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process."""
    folder = tmp_path_factory.mktemp("worlds")
    run_world(1, train, folder, NAMES, "one", _options(1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "strategy", "more", "names"),
    [
        (4, "ddp", {}, NAMES),
        (4, "fsdp", {}, NAMES[:1]),
        (4, "hsdp", {"shard_size": 2}, NAMES),
        (2, "fsdp", {}, NAMES),
    ],
)
def test_every_backbone_trains_like_one_process(
    alone: Path, processes: int, strategy: str, more: dict[str, Any], names: list[str]
) -> None:
    label = f"{strategy}{processes}"
    run_world(processes, train, alone, names, label, _options(processes, strategy=strategy, **more))
    for name in names:
        compare(alone, name, label)


DEMOS = {
    "demo_every": 3,
    "demo_steps": 3,
    "demo_cond": [{"seconds_start": 0, "seconds_total": n} for n in (1, 2, 3)],
    "demo_cfg_scales": [1, 2],
}
VALIDATION = {**DATASET, "split": "val", "num_clips": 3}


def _validated(folder: Path, strategy: str, batch: int) -> None:
    """Train with a validation for which processes have 2 and 1 clips."""
    options = {"batch_size": batch, "max_steps": 5, "strategy": strategy, "devices": "auto"}
    config = config_of("mlp")
    config["training"].update(ema={"update_after_step": 0}, demo=DEMOS)
    run = tiny_run(folder, config, name=strategy, val_dataset=VALIDATION, val_every=3, **options)
    run.module.double()
    run.module.ranking = {}  # to write the best weights would let go of what was gathered
    run.start()


def test_processes_with_parts_validate_as_often_as_each_other(tmp_path: Path) -> None:
    """The last one repeats clips; and what was gathered of averaged weights trains no further."""
    _validated(tmp_path, "auto", 2)
    run_world(2, _validated, tmp_path, "fsdp", 1)
    one, two = _rows(tmp_path / "auto"), _rows(tmp_path / "fsdp")
    assert [bool(row["val/avg_loss"]) for row in one] == [False, False, True, False, False]
    for a, b in zip(one, two, strict=True):
        for key in ("train/loss", "train/grad_norm", "val/avg_loss", "val/loss_0.5"):
            assert bool(a[key]) == bool(b[key])
            if a[key]:
                assert float(b[key]) == pytest.approx(float(a[key]), rel=1e-6), (a["step"], key)
    first, second = (load_torch_file(tmp_path / name / "last.ckpt") for name in ("auto", "fsdp"))
    _assert_close(first["state_dict"], second["state_dict"], "validated")
    sounds = [sorted((tmp_path / n / "demos" / "step_00000003").glob("*.wav")) for n in ("auto", "fsdp")]
    assert [p.name for p in sounds[0]] == [p.name for p in sounds[1]]
    assert len(sounds[0]) == 6
    for alone, together in zip(*sounds):
        a, b = (read_audio(path)[0] for path in (alone, together))
        torch.testing.assert_close(b, a, atol=2e-4, rtol=0)  # 16 bits, and sampling in float32
