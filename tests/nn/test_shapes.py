"""Arithmetic without values has the shapes and types of torch's, and does not import torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from stable_audio.nn.shapes import without_values


class Handled(TorchFunctionMode):
    """Collects the operations that needed no help of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = without_values(func, args, kwargs or {})
        if result is NotImplemented:
            return func(*args, **(kwargs or {}))
        self.names.append(func.__name__)
        return result


def row(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(1, 3, dtype=dtype, device="meta")


def column(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(2, 1, dtype=dtype, device="meta")


CASES: dict[str, Any] = {
    "broadcast": lambda: row() * column(),
    "wider type": lambda: row(torch.float64) + column(),
    "scalar of no dimension": lambda: row() * torch.ones((), dtype=torch.float64, device="meta"),
    "integer division": lambda: row(torch.int64) / 2,
    "integers times a fraction": lambda: column(torch.int64) * 0.5,
    "number minus tensor": lambda: 1 - row(),
    "number over tensor": lambda: 1.0 / row(),
    "number to the power of a tensor": lambda: 10000 ** row(),
    "tensor to a power": lambda: row() ** 3,
    "comparison": lambda: row() <= column(),
    "choice": lambda: torch.where(row() < 1, row(), column(torch.float64)),
    "limits": lambda: row().clamp(min=0),
    "angle": lambda: torch.atan2(row(), column()),
    "root": lambda: row(torch.int64).sqrt(),
    "to float": lambda: row(torch.float64).float(),
    "zeros like": lambda: torch.zeros_like(row(torch.float64)),
    "norm of some axes": lambda: torch.linalg.vector_norm(row(), dim=(1,), keepdim=True),
    "norm of an axis": lambda: row().norm(dim=-1),
    "random values": lambda: torch.randn(2, 5, device="meta"),
    "random values of a type": lambda: torch.rand((2, 5), device="meta", dtype=torch.float64),
    "values in place": lambda: row().normal_(0, 2),
    "initialisation": lambda: torch.nn.init.kaiming_uniform_(torch.empty(3, 4, device="meta"), a=2.0),
    "initialisation by a constant": lambda: torch.nn.init.constant_(torch.empty(3, device="meta"), 2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_types_are_those_of_torch(name: str) -> None:
    expected = CASES[name]()
    with Handled() as mode:
        result = CASES[name]()
    assert mode.names
    assert result.is_meta
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)


def test_tensors_with_values_are_left_to_torch() -> None:
    with Handled() as mode:
        product = torch.arange(3.0) * 2
        drawn = torch.randn(3, generator=torch.Generator().manual_seed(1))
    assert mode.names == []
    assert product.tolist() == [0, 2, 4]
    assert torch.equal(drawn, torch.randn(3, generator=torch.Generator().manual_seed(1)))


LOADING = """
import sys
from stable_audio.checkpoints.loading import load_model
load_model(sys.argv[1])
print([m for m in ("torch._dynamo", "sympy", "scipy.sparse") if m in sys.modules])
"""


def test_loading_for_generation_does_not_import_the_compiler(tmp_path: Any) -> None:
    from stable_audio.checkpoints import export
    from stable_audio.config import load_config
    from stable_audio.factory import create_model_from_config
    from tests.training.building import tiny_config

    optimizer = {"type": "AdamW", "config": {"lr": 1e-3}}
    config = tiny_config(optimizer_configs={"diffusion": {"optimizer": optimizer}})
    path = export(create_model_from_config(load_config(config)), tmp_path / "m.safetensors", config=config)
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
