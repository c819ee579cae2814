"""Products in 8 bits on a GPU that has them: close to bfloat16, compiled, resumed, any number of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.nn.float8 import compute_in_float8
from stable_audio.nn.linear import Linear
from stable_audio.training.devices.float8 import check_float8
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from tests.training.building import tiny_run

GPU: dict[str, Any] = {"accelerator": "gpu", "devices": "1", "demos": False}


@pytest.fixture(autouse=True)
def has_float8() -> None:
    try:
        check_float8(RunOptions(precision="fp8-mixed"))
    except (TrainingError, ImportError) as error:
        pytest.skip(str(error))


def _products(rows: int, scaling: Any, *, emulated: bool) -> list[Tensor]:
    """Output and gradients of a layer."""
    torch.manual_seed(0)
    network = nn.Sequential(Linear(64, 96)).cuda()
    compute_in_float8(network, [network[0]], scaling=scaling, emulated=emulated)
    x = torch.randn(rows, 64, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        out = network(x)
    out.backward(torch.randn(rows, 96, device="cuda").to(out.dtype))
    return [t.detach().float() for t in (out, x.grad, network[0].weight.grad)]  # type: ignore[union-attr]


@pytest.mark.parametrize("scaling", ["tensorwise", "rowwise"])
@pytest.mark.parametrize("rows", [1, 33, 1025])
def test_products_are_those_that_a_cpu_emulates(rows: int, scaling: str) -> None:
    """But for sums in another order, and fast sums of fewer bits in the forward pass."""
    for found, expected in zip(*(_products(rows, scaling, emulated=e) for e in (False, True))):
        assert float((found - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize(
    ("precision", "compiled"), [("fp8-mixed", False), ("fp8-mixed", True), ("fp8-rowwise-mixed", False)]
)
def test_a_run_learns_as_in_bfloat16(precision: str, compiled: bool, tmp_path: Path) -> None:
    losses = []
    for name, compiles in ((precision, compiled), ("bf16-mixed", False)):
        run = tiny_run(tmp_path / name, max_steps=20, precision=name, compile=compiles, batch_size=8, **GPU)
        assert run.start() == 0
        losses.append(run.scalars.latest["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_a_continued_run_is_bit_identical(tmp_path: Path) -> None:
    options: dict[str, Any] = {"precision": "fp8-mixed", **GPU}
    whole = tiny_run(tmp_path / "whole", max_steps=6, **options)
    whole.start()
    tiny_run(tmp_path / "parts", max_steps=3, **options).start()
    again = tiny_run(tmp_path / "parts", max_steps=6, recover=True, **GPU)
    assert again.options.precision == "fp8-mixed"
    again.start()
    expected = whole.module.model.state_dict()
    for key, value in again.module.model.state_dict().items():
        assert torch.equal(value, expected[key]), key
