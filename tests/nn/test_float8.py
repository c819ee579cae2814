"""Linear layers in 8 bits against a literal implementation of dynamic scaling in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from stable_audio.nn.float8 import Scaling, compute_in_float8
from stable_audio.nn.linear import Linear

E4M3, E5M2 = (3, -6, 448.0), (2, -14, 57344.0)
"""Bits of the fraction, exponent of the smallest normal number, greatest number."""
SCALINGS = pytest.mark.parametrize("scaling", ["tensorwise", "rowwise"])


def _nearest(x: Tensor, kind: tuple[int, int, float]) -> Tensor:
    """The number of a type that is closest to each of x in float64; of two, the one with an even fraction."""
    bits, smallest, greatest = kind
    exponent = x.abs().clamp(min=2.0**-60).log2().floor().clamp(min=smallest)
    step = torch.exp2(exponent - bits)
    return ((x / step).round() * step).clamp(-greatest, greatest)


def _rounded(x: Tensor, kind: tuple[int, int, float], scaling: Scaling, dim: int) -> Tensor:
    """x as 8 bits keep it: scaled so that its greatest value is the greatest of the type. By rows, every sum
    along `dim` has a scale of its own, a power of two."""
    if scaling == "tensorwise":
        scale = (kind[2] / x.abs().max().clamp(min=1e-12)).float().double()
    else:
        scale = torch.exp2((kind[2] / x.abs().amax(dim, keepdim=True).clamp(min=1e-12)).log2().floor())
    return _nearest(x * scale, kind) / scale


def _literal(x: Tensor, weight: Tensor, gradient: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor, Tensor]:
    """x (m, k) W^T (m, n), and the gradients of x and of W (n, k) for one of the output (m, n)."""
    of_gradient = E5M2 if scaling == "tensorwise" else E4M3

    def product(a: Tensor, b: Tensor, kind: tuple[int, int, float]) -> Tensor:
        return _rounded(a, kind, scaling, 1) @ _rounded(b, E4M3, scaling, 0)

    return (
        product(x, weight.T, E4M3),
        product(gradient, weight, of_gradient),
        product(gradient.T, x, of_gradient),
    )


def _layer(scaling: Scaling, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    network = nn.Sequential(Linear(48, 32, bias=bias))
    assert compute_in_float8(network, [network[0]], scaling=scaling, emulated=True) == ["0"]
    return network[0]


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", [E4M3, E5M2])
def test_the_literal_rounding_is_that_of_the_types(kind: tuple[int, int, float]) -> None:
    dtype = torch.float8_e4m3fn if kind is E4M3 else torch.float8_e5m2
    x = torch.cat([torch.randn(4000) * 2.0**e for e in range(-18, 6)]).clamp(-kind[2], kind[2])
    assert torch.equal(_nearest(x.double(), kind), x.to(dtype).double())


@SCALINGS
@pytest.mark.parametrize("rows", [(5, 7), (16,), (1,)])
def test_products_are_those_of_values_that_were_scaled_and_rounded(
    scaling: Scaling, rows: tuple[int, ...]
) -> None:
    layer = _layer(scaling)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*rows, 48, generator=generator, requires_grad=True)
    gradient = torch.randn(*rows, 32, generator=generator) * 1e-3
    out = layer(x)
    out.backward(gradient)
    flat = (t.detach().double().reshape(math.prod(rows), -1) for t in (x, gradient))
    rows_of_x, rows_of_gradient = flat
    weight = layer.weight.detach().double()
    product, of_x, of_weight = _literal(rows_of_x, weight, rows_of_gradient, scaling)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    # What is left is rounding in float32.
    assert _error(out.detach().reshape(-1, 32), product + layer.bias.detach().double()) < 1e-6
    assert _error(x.grad.reshape(-1, 48), of_x) < 1e-6
    assert _error(layer.weight.grad, of_weight) < 1e-6
    torch.testing.assert_close(layer.bias.grad.double(), rows_of_gradient.sum(0))
    # And 8 bits it is: further from exact products than 16 bits are, and no further than three bits allow.
    for found, exact in (
        (out.detach().reshape(-1, 32) - layer.bias.detach(), rows_of_x @ weight.T),
        (x.grad.reshape(-1, 48), rows_of_gradient @ weight),
        (layer.weight.grad, rows_of_gradient.T @ rows_of_x),
    ):
        assert 0.01 < _error(found, exact) < 0.12


@SCALINGS
def test_under_autocast_operands_are_rounded_to_bfloat16_first(scaling: Scaling) -> None:
    layer = _layer(scaling, bias=False)
    x = torch.randn(6, 48, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.sum().backward()
    assert out.dtype is torch.bfloat16
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert x.grad.dtype is layer.weight.grad.dtype is torch.float32
    rounded = x.detach().bfloat16().double()
    expected, _, _ = _literal(rounded, layer.weight.detach().double(), torch.ones(6, 32).double(), scaling)
    torch.testing.assert_close(out.detach(), expected.bfloat16(), rtol=0.008, atol=1e-3)


@SCALINGS
def test_without_gradients_layers_compute_as_before(scaling: Scaling) -> None:
    layer, x = _layer(scaling), torch.randn(3, 48)
    with torch.no_grad():
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert not torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


@SCALINGS
def test_zeros_have_gradients_of_zero_and_what_is_not_finite_stays_so(scaling: Scaling) -> None:
    layer = _layer(scaling, bias=False)
    layer(torch.ones(4, 48)).backward(torch.zeros(4, 32))
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()
    assert not layer(torch.zeros(4, 48)).any()
    for bad in (float("nan"), float("inf")):
        assert not layer(torch.full((4, 48), bad)).isfinite().any()


def test_the_layer_keeps_its_weights_and_their_names() -> None:
    network = nn.Sequential(nn.LayerNorm(32), Linear(32, 16), nn.Linear(16, 16)).eval()
    weights, keys = list(network.parameters()), list(network.state_dict())
    assert compute_in_float8(network, [network[1]], scaling="tensorwise", emulated=True) == ["1"]
    assert all(a is b for a, b in zip(weights, network.parameters(), strict=True))
    assert list(network.state_dict()) == keys
    assert isinstance(network[1], nn.Linear)
    assert not network[1].training
    assert type(network[2]) is nn.Linear
