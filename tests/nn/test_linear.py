"""Linear layers whose product is oneDNN's give what torch's give, and step aside where more is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from stable_audio.nn import linear as linear_module
from stable_audio.nn.feedforward import GLU
from stable_audio.nn.linear import Linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")

UNIT = torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def small_layers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "LEAST_WEIGHTS", 1)
    monkeypatch.setattr(linear_module, "LEAST_ROWS", 2)
    monkeypatch.setattr(linear_module, "onednn_is_faster", lambda: True)
    torch.manual_seed(0)


def _libraries(layer: nn.Module, x: Tensor) -> set[str]:
    """The operations that compute products in a call of a layer."""
    with profile() as events:
        layer(x)
    names = {"mkldnn::_linear_pointwise", "aten::linear"}
    return {event.name for event in events.function_events} & names


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_that_of_torch(bias: bool) -> None:
    layer, x = Linear(48, 20, bias=bias), torch.randn(2, 3, 48)
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    # Sums of 48 products and a bias, in any order (Higham 2002, section 3.1).
    most = 50 * UNIT * (F.linear(x.abs(), layer.weight.abs()) + (layer.bias.abs() if bias else 0))
    with torch.no_grad():
        assert _libraries(layer, x) == {"mkldnn::_linear_pointwise"}
        assert ((layer(x) - exact).abs() <= most).all()


def test_swiglu_is_its_formula() -> None:
    glu, x = GLU(24, 10, nn.SiLU()), torch.randn(2, 4, 24)
    weight, bias = glu.proj.weight.double(), glu.proj.bias.double()
    products = F.linear(x.double(), weight, bias)
    value, gate = products[..., :10], products[..., 10:]
    sizes = F.linear(x.double().abs(), weight.abs(), bias.abs())
    # Each product errs by 26 units at most; x sigmoid(x) has a slope below 1.1, and errs by 8 units itself.
    errors = 26 * UNIT * sizes
    most = errors[..., :10] * gate.abs() + value.abs() * (1.1 * errors[..., 10:] + 8 * UNIT * gate.abs())
    with torch.no_grad():
        assert _libraries(glu, x) == {"mkldnn::_linear_pointwise"}
        error = (glu(x) - value * F.silu(gate)).abs()
    assert (error <= most + 4 * UNIT * (value * gate).abs() + errors.square().amax()).all()


def test_a_hook_or_another_class_is_asked_as_before() -> None:
    glu, x = GLU(8, 4, nn.SiLU()), torch.randn(3, 8)
    seen: list[Tensor] = []
    glu.proj.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        glu(x)
    assert [tuple(output.shape) for output in seen] == [(3, 8)]

    class Doubled(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    other = GLU(8, 4, nn.SiLU())
    other.proj.__class__ = Doubled
    value, gate = (2 * F.linear(x, other.proj.weight, other.proj.bias)).chunk(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(other(x), value * F.silu(gate))


def test_gradients_and_tangents_are_torchs() -> None:
    layer, x = Linear(6, 5), torch.randn(3, 6)
    assert _libraries(layer, x) == {"aten::linear"}
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        _, tangent = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, layer.weight.sum(1).expand(3, -1))


def test_what_counts_operations_counts_these() -> None:
    layer = Linear(6, 5)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(3, 6))
    assert counter.get_total_flops() == 2 * 3 * 6 * 5


def test_float64_is_torchs() -> None:
    with torch.no_grad():
        assert _libraries(Linear(6, 5).double(), torch.randn(3, 6).double()) == {"aten::linear"}


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_onednns_on_every_processor_with_instructions_for_it(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded once, where torch rounds the products, the activation and their product in turn."""
    monkeypatch.setattr(linear_module, "onednn_is_faster", lambda: False)
    monkeypatch.setattr(linear_module, "has_bfloat16", lambda: fast)
    glu, x = GLU(24, 10, nn.SiLU()).bfloat16(), torch.randn(2, 4, 24).bfloat16()
    weight, bias = glu.proj.weight.double(), glu.proj.bias.double()
    value, gate = F.linear(x.double(), weight, bias).chunk(2, -1)
    with torch.no_grad():
        assert _libraries(glu, x) == {"mkldnn::_linear_pointwise" if fast else "aten::linear"}
        error = (glu(x) - value * F.silu(gate)).norm() / (value * F.silu(gate)).norm()
    assert error < 2**-7


@pytest.mark.parametrize(
    ("machine", "instructions", "found"),
    [("x86_64", True, True), ("x86_64", False, False), ("AMD64", False, False), ("aarch64", False, True)],
)
def test_processors_with_avx512_alone_have_no_products_in_bfloat16(
    machine: str, instructions: bool, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN has them there all the same, slower than conversions to float32."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions, raising=False)
    monkeypatch.setattr(linear_module.platform, "machine", lambda: machine)
    assert linear_module._found_bfloat16() is found


def test_float32_weights_under_autocast_are_torchs() -> None:
    layer, x = Linear(6, 5), torch.randn(3, 6).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert _libraries(layer, x) == {"aten::linear"}


def test_transformed_products_are_torchs() -> None:
    """vmap would take oneDNN's item by item."""
    layer, x = Linear(6, 5), torch.randn(4, 3, 6)
    with torch.no_grad():
        assert "mkldnn::_linear_pointwise" not in _libraries(torch.func.vmap(layer), x)
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))


def test_small_products_and_other_processors_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Linear(6, 5), torch.randn(3, 6)
    with torch.no_grad():
        assert _libraries(layer, x[:1]) == {"aten::linear"}
        torch.backends.mkldnn.set_flags(False)
        try:
            assert _libraries(layer, x) == {"aten::linear"}
        finally:
            torch.backends.mkldnn.set_flags(True)
        monkeypatch.setattr(linear_module, "LEAST_WEIGHTS", 31)
        assert _libraries(layer, x) == {"aten::linear"}
    monkeypatch.setattr(linear_module, "onednn_is_faster", lambda: False)
    monkeypatch.setattr(linear_module, "LEAST_WEIGHTS", 1)
    with torch.no_grad():
        assert _libraries(Linear(6, 5), x) == {"aten::linear"}


def test_a_compiler_chooses_itself() -> None:
    """Inductor takes products of oneDNN in networks that it has frozen alone."""
    operations: list[str] = []

    def collect(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        operations.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    glu, x = GLU(8, 4, nn.SiLU()), torch.randn(3, 8)
    with torch.no_grad():
        compiled = torch.compile(glu, backend=collect, fullgraph=True)
        torch.testing.assert_close(compiled(x), glu(x))
    assert operations
    assert not any("mkldnn" in operation for operation in operations)
