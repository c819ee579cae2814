"""Split weights in bfloat16: they train like whole ones on as many processes.

Not of every backbone to the last digit: 16 bits round otherwise where gradients are added in another order.
"""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints.torch_file import load_torch_file
from tests.training.building import tiny_run
from tests.training.processes.models import config_of
from tests.training.processes.test_worlds import options_of
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
NAMES = ["dit", "mlp"]
LIMITS = {"bf16-mixed": (1e-6, 1e-6, 1e-7), "bf16-true": (1e-4, 1e-2, 1e-3)}
"""Greatest relative difference of a loss, of the norm of the gradients and of all weights, by precision."""


def _train(folder: Path, options: dict[str, Any]) -> None:
    logging.disable(logging.WARNING)
    for name in NAMES:
        run = tiny_run(folder / options["strategy"], config_of(name), name=name, **options)
        assert run.start() == 0


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """As trained, and averaged."""
    content = load_torch_file(folder / "last.ckpt")
    averaged = content["stable_audio"]["ema"]["average"].items()
    found = {**content["state_dict"], **{f"average of {key}": value for key, value in averaged}}
    return {key: value.double() for key, value in found.items()}


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The length of the difference of all weights, as a part of their own."""
    assert one.keys() == other.keys()
    differences = sum(float((value - other[key]).square().sum()) for key, value in one.items())
    return math.sqrt(differences / sum(float(value.square().sum()) for value in one.values()))


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(LIMITS))
def test_split_weights_in_bfloat16_train_like_whole_ones(tmp_path: Path, precision: str) -> None:
    for strategy in ("ddp", "fsdp"):
        options = options_of(2, strategy=strategy, precision=precision, max_steps=4)
        run_world(2, _train, tmp_path, options)
    loss, norm, weights = LIMITS[precision]
    for name in NAMES:
        whole, parts = tmp_path / "ddp" / name, tmp_path / "fsdp" / name
        for a, b in zip(_rows(whole), _rows(parts), strict=True):
            for key, limit in (("train/loss", loss), ("train/grad_norm", norm)):
                assert float(b[key]) == pytest.approx(float(a[key]), rel=limit), (name, a["step"], key)
        assert _difference(_weights(whole), _weights(parts)) < weights
