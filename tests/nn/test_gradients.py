"""Layers that write their own gradients: those of the plain formulas, bit for bit, and with less memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from stable_audio.nn.attention import Attention, AttentionOptions
from stable_audio.nn.gradients import is_only_computed, writes_gradient
from stable_audio.nn.linear import Linear
from stable_audio.nn.rotary import RotaryEmbedding, RotaryTables, apply_rotary, rotated_parts
from stable_audio.nn.swiglu import swiglu

WHICH = (True, True, False)
Layer = Callable[[Tensor], Sequence[Tensor]]


def literal_swiglu(x: Tensor) -> tuple[Tensor]:
    value, gate = x.chunk(2, dim=-1)
    return (value * F.silu(gate),)


def literal_rotation(x: Tensor, tables: RotaryTables, which: tuple[bool, ...] = WHICH) -> tuple[Tensor, ...]:
    """Queries and keys of x (b n 3 h d) rotated by the definition, half-split form; values as they are."""
    cos, sin = tables.cos[:, None], tables.sin[:, None]
    half = cos.shape[-1]
    outs = []
    for part, turn in zip(x.unbind(2), which):
        wide = part.to(torch.promote_types(x.dtype, torch.float32))
        a, b = wide[..., :half], wide[..., half : 2 * half]
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin, wide[..., 2 * half :]], dim=-1)
        outs.append(turned.to(x.dtype) if turn else part)
    return tuple(outs)


def rotation(dtype: torch.dtype) -> tuple[Layer, Layer, Tensor]:
    tables = RotaryEmbedding(4)(5)
    if dtype == torch.float64:
        tables = RotaryTables(*(table.double() for table in tables))
    x = torch.randn(2, 5, 3, 2, 6, dtype=dtype, requires_grad=True)
    return lambda x: rotated_parts(x, tables, WHICH), lambda x: literal_rotation(x, tables), x


def gate(dtype: torch.dtype) -> tuple[Layer, Layer, Tensor]:
    x = (3 * torch.randn(2, 5, 8, dtype=dtype)).requires_grad_()
    return lambda x: (swiglu(x),), literal_swiglu, x


CASES = {"rotation": rotation, "swiglu": gate}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Callable[[torch.dtype], tuple[Layer, Layer, Tensor]]:
    return CASES[request.param]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", [WHICH, (True, True, False, True, True), (False, True, False), (False,)])
def test_rotation_without_gradients(dtype: torch.dtype, which: tuple[bool, ...]) -> None:
    tables, x = RotaryEmbedding(4)(5), torch.randn(2, 5, len(which), 2, 6, dtype=dtype)
    expected = literal_rotation(x, tables, which)
    kept = x.clone()
    with torch.no_grad():
        outs = rotated_parts(x, tables, which)
        strided = rotated_parts(x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0), tables, which)
    assert len(outs) == len(which)
    for out, other, value in zip(outs, strided, expected):
        assert torch.equal(out, value)
        assert torch.equal(other, value)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradient_are_those_of_the_formula(case: Any, dtype: torch.dtype) -> None:
    layer, literal, x = case(dtype)
    outs, expected = layer(x), literal(x)
    weights = [torch.randn_like(out) for out in outs]
    before = [w.clone() for w in weights]
    (found,) = torch.autograd.grad(outs, x, weights)
    (wanted,) = torch.autograd.grad(expected, x, weights)
    assert all(torch.equal(a, b) for a, b in zip(outs, expected))
    assert torch.equal(found, wanted)
    assert all(torch.equal(a, b) for a, b in zip(weights, before))


def test_gradients_of_gradients(case: Any) -> None:
    layer, _, x = case(torch.float64)
    assert gradcheck(layer, (x,))
    assert gradgradcheck(layer, (x,))


def test_derivatives_that_go_forwards(case: Any) -> None:
    layer, literal, x = case(torch.float64)
    direction = torch.randn_like(x)
    found = torch.func.jvp(layer, (x,), (direction,))[1]
    wanted = torch.func.jvp(literal, (x,), (direction,))[1]
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other)


def test_an_unused_part_has_no_gradient() -> None:
    layer, literal, x = rotation(torch.float32)
    (found,) = torch.autograd.grad(layer(x)[1].square().sum(), x)
    (wanted,) = torch.autograd.grad(literal(x)[1].square().sum(), x)
    assert torch.equal(found, wanted)


class Names(TorchDispatchMode):
    """The operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_the_gradient_is_written_without_joining_parts(case: Any) -> None:
    layer, literal, x = case(torch.float32)

    def backward(function: Layer) -> set[str]:
        loss = sum(out.square().sum() for out in function(x))
        with Names() as names:
            loss.backward()  # type: ignore[union-attr]
        return {name for name in names.names if "cat" in name or "stack" in name}

    assert backward(literal)
    assert not backward(layer)


def test_no_more_is_kept_than_by_the_formula(case: Any) -> None:
    layer, literal, x = case(torch.float32)

    def kept(function: Layer) -> int:
        storages: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            function(x)
        return sum(storages.values())

    assert kept(layer) <= kept(literal)


def test_who_writes_its_gradient() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert writes_gradient(torch.empty(2, device="cuda", requires_grad=True))
    x = torch.randn(2, requires_grad=True)
    assert writes_gradient(x)
    assert not writes_gradient(x.detach())
    assert not writes_gradient(x.to("meta"))
    with torch.no_grad():
        assert not writes_gradient(x)
    found: list[bool] = []

    def watched(x: Tensor) -> Tensor:
        found.append(writes_gradient(x))
        return x

    torch.func.grad(lambda x: watched(x).sum())(x)
    assert found == [False]


@pytest.mark.parametrize("differential", [False, True])
@pytest.mark.parametrize("qk_norm", ["none", "rms"])
def test_attention_trains_as_with_plain_operations(
    differential: bool, qk_norm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = AttentionOptions(differential=differential, qk_norm=qk_norm, zero_init_output=False)
    attention = Attention(16, dim_heads=8, options=options)
    x, tables = torch.randn(2, 5, 16, requires_grad=True), RotaryEmbedding(4)(5)

    def gradients() -> list[Tensor]:
        out = attention(x, rotary=tables)
        return [out, *torch.autograd.grad(out.square().sum(), [x, *attention.parameters()])]

    own = gradients()
    monkeypatch.setattr("stable_audio.nn.rotary.writes_gradient", lambda x: False)
    assert all(torch.equal(a, b) for a, b in zip(own, gradients()))


def test_rotation_of_one_tensor_in_half_precision_sums_in_float32() -> None:
    tables = RotaryEmbedding(8)(20)
    x = torch.randn(1, 20, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn_like(x)
    (found,) = torch.autograd.grad(apply_rotary(x, tables), x, weight)
    back = RotaryTables(tables.cos, -tables.sin)
    assert torch.equal(found, apply_rotary(weight.float(), back).bfloat16())


class Kernels(TorchDispatchMode):
    """How many operations ran that are neither views nor the making of an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or "empty" in str(func))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_queries_and_keys_are_rotated_together_where_layers_only_compute() -> None:
    """A step of sampling for few clips on a GPU takes as long as the launches of its kernels."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, device="cuda")
    assert is_only_computed(x)
    assert not Linear(2, 2).takes_onednn(x)
    with torch.enable_grad():
        assert not is_only_computed(x)
    tables, x = RotaryEmbedding(4)(5), torch.randn(2, 5, 3, 2, 6, dtype=torch.bfloat16)
    with Kernels() as together:
        rotated_parts(x, tables, WHICH)
    with Kernels() as apart:
        for part in x.unbind(2)[:2]:
            apply_rotary(part, tables)
    assert 2 * together.count <= apart.count
