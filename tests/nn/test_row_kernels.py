"""Which kernel a row gets, and the reason that is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from stable_audio.nn.flex import FlexRow
from stable_audio.nn.row_attention import EqualRuns, PaddedGroups, Places
from stable_audio.nn.row_kernels import Available, RowNeeds, available, row_kernel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NEW = Available(varlen=True, varlen_windows=True, flash=True, flex=True, ampere=True)
OLD = dataclasses.replace(NEW, varlen=False, varlen_windows=False)
FIRST = dataclasses.replace(NEW, varlen_windows=False)  # torch 2.10
BARE = dataclasses.replace(OLD, flash=False)


@pytest.mark.parametrize(
    ("have", "changes", "name", "why"),
    [
        (NEW, {}, "varlen", "PyTorch has it"),
        (NEW, {"compiled": True}, "varlen", "PyTorch has it"),
        (NEW, {"window": (8, 8), "causal": True}, "varlen", "PyTorch has it"),
        (NEW, {"prefers_flash": True}, "flash-attn", "backend"),
        (FIRST, {"window": (8, 8)}, "flash-attn", "takes no windows"),
        (FIRST, {"causal": True}, "varlen", "PyTorch has it"),
        (OLD, {}, "flash-attn", "before 2.10; flash-attn is installed"),
        (BARE, {}, "FlexAttention", "flash-attn is not installed"),
        (BARE, {"compiled": True}, "padded groups", "FlexAttention is made for each length"),
        (BARE, {"dim_heads": 8}, "padded groups", "FlexAttention cannot serve"),
        (dataclasses.replace(BARE, flex=False), {}, "padded groups", "FlexAttention cannot serve"),
        (NEW, {"dtype": torch.float32}, "padded groups", "do not take torch.float32"),
        (NEW, {"dim_heads": 20}, "padded groups", "not 20"),
        (dataclasses.replace(NEW, ampere=False), {}, "padded groups", "compute capability 8.0"),
        (NEW, {"device": CPU}, "runs of equal length", "on cpu"),
        (NEW, {"device": torch.device("meta")}, "runs of equal length", "on meta"),
        (NEW, {"device": CPU, "compiled": True}, "padded groups", "the network is compiled"),
    ],
)
def test_the_kernel_and_its_reason(have: Available, changes: dict[str, Any], name: str, why: str) -> None:
    need = RowNeeds(**{"device": CUDA, "dtype": torch.bfloat16, "dim_heads": 64, **changes})
    kernel = row_kernel(need, have)
    assert kernel.name == name
    assert why in kernel.why


def test_derivatives_in_forward_mode_take_no_fused_kernel() -> None:
    need = RowNeeds(device=CUDA, dtype=torch.bfloat16, dim_heads=64)
    names = []

    def network(x: torch.Tensor) -> torch.Tensor:
        names.append(row_kernel(need, NEW).name)
        return x

    torch.func.jvp(network, (torch.ones(1),), (torch.ones(1),))
    assert names == ["padded groups"]


def test_a_cpu_has_none_of_them() -> None:
    assert available(CPU) == Available()


@pytest.mark.parametrize(
    ("have", "changes", "kind"),
    [
        (NEW, {"device": CPU}, EqualRuns),
        (NEW, {"device": CPU, "compiled": True}, PaddedGroups),
        (BARE, {}, FlexRow),
    ],
)
def test_kernels_are_made(have: Available, changes: dict[str, Any], kind: type) -> None:
    need = RowNeeds(**{"device": CUDA, "dtype": torch.bfloat16, "dim_heads": 64, **changes})
    row = row_kernel(need, have).make((3, 2), Places.of((3, 2)))
    assert isinstance(row, kind)
