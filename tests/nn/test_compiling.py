"""What is compiled for one block serves all blocks, with the same results and gradients."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from stable_audio.backbones import BACKBONES
from stable_audio.nn.checkpointing import Recomputation
from stable_audio.nn.compiling import compile_network, repeated_blocks, runs_compiled
from stable_audio.nn.copying import is_compiled
from stable_audio.types import Conditioning
from tests.backbones.test_contracts import CASES, conditioning, inputs
from tests.backbones.test_contracts import build as build_case
from tests.backbones.test_dit import build
from tests.backbones.test_packing import OPTIONS, SEVERAL, batch

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # dynamo's


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Dynamo's counters of graphs, by a compiler that changes nothing."""
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: original(self, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def deep(**options: Any) -> Any:
    return build(**{**options, "depth": 3}).double().train()


@pytest.mark.parametrize(
    ("options", "recomputed"),
    [
        ("all slots", False),
        ("all slots", True),
        ("adaLN", "elementwise"),
        pytest.param("differential", False, marks=pytest.mark.slow),
        pytest.param("local conditioning of patches", False, marks=pytest.mark.slow),
    ],
)
def test_blocks_share_one_graph(options: str, recomputed: Recomputation, graphs: Any) -> None:
    plain = deep(**OPTIONS[options])
    plain.enable_gradient_checkpointing(recomputed)
    compiled = copy.deepcopy(plain)
    compile_network(compiled)
    (x, t), cond = inputs(plain), conditioning(plain)
    for seed in range(2):
        x = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        _same(compiled, plain, lambda network, x=x: network(x, t, cond))
    assert graphs["stats"]["unique_graphs"] == 1
    assert not graphs["graph_break"]


@pytest.mark.slow
def test_one_graph_serves_packed_rows_of_all_lengths(graphs: Any) -> None:
    plain = deep(**OPTIONS["all slots"])
    compiled = copy.deepcopy(plain)
    compile_network(compiled)
    for lengths in SEVERAL[:3]:
        x, t, cond = batch(plain, lengths)
        _same(compiled, plain, lambda network: network.forward_packed(x, t, cond, lengths))  # noqa: B023
    assert graphs["stats"]["unique_graphs"] == 1
    assert not graphs["graph_break"]


@pytest.mark.parametrize(
    "name", [name if name == "mlp" else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_two_graphs_serve_padded_batches_of_all_lengths(name: str, graphs: Any) -> None:
    """As buckets make them: one for the first length, and one for every other."""
    plain = build_case(name).double().train()
    compiled = copy.deepcopy(plain)
    compile_network(compiled)
    found = []
    for times in (8, 12, 20, 6):
        (x, t), cond = (
            inputs(plain, times=times),
            _of_length(conditioning(plain), times * plain.length_multiple),
        )
        _same(compiled, plain, lambda network: network(x.double(), t, cond))  # noqa: B023
        found.append(graphs["stats"]["unique_graphs"])
    assert found == [1, 2, 2, 2]
    assert not graphs["graph_break"]


def _of_length(cond: Conditioning, n: int) -> Conditioning:
    """With other tensors of frames, of n frames."""
    frames = {}
    for name in ("input_concat", "local_add"):
        value = getattr(cond, name)
        if value is not None:
            generator = torch.Generator().manual_seed(n)
            frames[name] = torch.randn(*value.shape[:2], n, generator=generator).double()
    others = {
        field.name: value.double()
        for field in dataclasses.fields(cond)
        if isinstance(value := getattr(cond, field.name), Tensor) and value.is_floating_point()
    }
    return dataclasses.replace(cond, **{**others, **frames})


def _same(compiled: nn.Module, plain: nn.Module, call: Any) -> None:
    """Both networks have the same outputs and gradients."""
    found: list[dict[str, Tensor]] = []
    for network in (compiled, plain):
        network.zero_grad()
        out = call(network)
        out.square().sum().backward()
        found.append({"": out, **{k: p.grad for k, p in network.named_parameters() if p.grad is not None}})
    assert found[0].keys() == found[1].keys()
    for key, value in found[1].items():
        atol = 1e-10 + 1e-6 * float(value.detach().abs().max())
        torch.testing.assert_close(found[0][key], value, rtol=1e-6, atol=atol, msg=key)


@pytest.mark.parametrize("name", list(CASES))
def test_blocks_or_the_whole_are_compiled_and_state_is_the_same(name: str) -> None:
    network = build_case(name)
    keys = list(network.state_dict())
    assert not runs_compiled(network)
    compile_network(network)
    assert runs_compiled(network)
    blocks = repeated_blocks(network)
    assert is_compiled(network) == (not blocks)
    assert all(is_compiled(block) for block in blocks)
    assert list(network.state_dict()) == keys
    assert not runs_compiled(copy.deepcopy(network))
