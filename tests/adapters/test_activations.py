"""Outputs of layers with updates by their activations: the function and gradients of updated weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.adapters import ADAPTER_TYPES, AdapterSettings, AdapterStack, activations
from stable_audio.adapters.layers import forget_computed_weights, own_weight, updates_of
from stable_audio.backbones.adp.conv import PaddedConv1d
from stable_audio.nn.feedforward import ConvOverTokens, PointwiseConv
from stable_audio.nn.held import can_hold, frozen_product, hold, matrix_parts

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (2, 3, 6)),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (4, 6)),
    "conv": (lambda: nn.Conv1d(6, 5, 3, stride=2, padding=1, dilation=2), (2, 6, 11)),
    "grouped conv": (lambda: nn.Conv1d(6, 4, 3, groups=2, padding="same"), (2, 6, 9)),
    "circular conv": (lambda: nn.Conv1d(6, 4, 3, padding=1, padding_mode="circular"), (2, 6, 9)),
    "pointwise conv": (lambda: nn.Conv1d(6, 5, 1), (2, 6, 4)),
    "two axes": (lambda: nn.Conv2d(3, 4, (3, 2), padding=1, bias=False), (2, 3, 5, 4)),
    "padded conv": (lambda: PaddedConv1d(6, 5, 5, stride=2), (2, 6, 8)),
    "over tokens": (lambda: ConvOverTokens(6, 5, 3, bias=True), (2, 7, 6)),
    "linear as conv": (lambda: PointwiseConv(6, 5), (2, 7, 6)),
}


class OwnWay(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv1d(x, 2 * self.weight, self.bias)


def trained_stack(layer: nn.Module, kind: str, *, by_activations: bool) -> AdapterStack:
    """A stack around one layer, with trained values in float64."""
    stack = AdapterStack(nn.Sequential(layer))
    settings = AdapterSettings(rank=3, alpha=5.0, adapter_type=kind)
    index = stack.add(settings, by_activations=by_activations)
    generator = torch.Generator().manual_seed(3)
    for update in updates_of(layer).values():
        update.double()
        squares = own_weight(layer).double().square()
        update.row_squares, update.column_squares = squares.sum(1), squares.sum(0)
        for name, parameter in update.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = parameter.data * (1 + 0.1 * noise) if name.startswith("mag") else 0.3 * noise
    stack.set_strength(index, backbone=0.7)
    return stack


def outcome(build: Any, shape: tuple[int, ...], kind: str, *, by_activations: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    layer = build().requires_grad_(False)
    layer.double()
    trained_stack(layer, kind, by_activations=by_activations)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    y = layer(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (y * weights).sum().backward()
    gradients = {n: p.grad for u in updates_of(layer).values() for n, p in u.named_parameters()}
    assert all(g is not None for g in gradients.values())
    return {"y": y.detach(), "x": x.grad, **gradients}  # type: ignore[dict-item]


@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_updated_weight(name: str, kind: str) -> None:
    build, shape = LAYERS[name]
    expected = outcome(build, shape, kind, by_activations=False)
    values = outcome(build, shape, kind, by_activations=True)
    # Sums of at most some hundred products of float64, with norms far from 0.
    for key, value in expected.items():
        torch.testing.assert_close(values[key], value, rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("kind", ["lora", "dora-rows", "bora-xs"])
def test_no_tensor_of_the_size_of_the_weight_is_kept_for_the_gradient(kind: str) -> None:
    layer = nn.Linear(64, 48).requires_grad_(False)
    stack = AdapterStack(nn.Sequential(layer))
    stack.add(AdapterSettings(rank=2, adapter_type=kind), by_activations=True)
    own, kept = layer._parameters["weight"], []
    assert own is not None

    def note(tensor: Tensor) -> Tensor:
        if tensor.numel() >= own.numel() and tensor.data_ptr() != own.data_ptr():
            kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        layer(torch.randn(2, 64)).sum()
    assert not kept


def test_a_layer_that_computes_in_its_own_way_uses_its_updated_weight() -> None:
    shape = (2, 6, 9)
    expected = outcome(lambda: OwnWay(6, 4, 3), shape, "lora", by_activations=False)
    values = outcome(lambda: OwnWay(6, 4, 3), shape, "lora", by_activations=True)
    for key, value in expected.items():
        assert torch.equal(values[key], value)


def test_two_updates_are_applied_one_after_the_other() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5).requires_grad_(False)
    stack = trained_stack(layer, "dora-rows", by_activations=True)
    stack.add(AdapterSettings(rank=2), by_activations=True)
    for update in updates_of(layer).values():
        update.float()
    x = torch.randn(3, 6)
    updates = list(updates_of(layer).values())
    expected = x @ updates[1](updates[0](own_weight(layer))).T + layer.bias
    torch.testing.assert_close(layer(x), expected)


def test_a_layer_of_zeros_stays_without_a_nan() -> None:
    layer = nn.Linear(6, 5)
    nn.init.zeros_(layer.weight)
    layer.requires_grad_(False)
    stack = AdapterStack(nn.Sequential(layer))
    for kind in ("dora-rows", "dora-cols", "bora"):
        index = stack.add(AdapterSettings(rank=2, adapter_type=kind), by_activations=True)
        y = layer(torch.randn(3, 6))
        y.sum().backward()
        gradients = [p.grad for p in stack.parameters(index)]
        assert torch.equal(y, layer.bias.expand_as(y))
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
        stack.remove(index)


@pytest.mark.parametrize("kind", ["lora", "dora-rows"])
def test_a_base_in_bfloat16_leaves_the_update_in_float32(kind: str) -> None:
    """Rounded to bfloat16, an update of a thousandth of the weight would be lost in most entries."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).requires_grad_(False)
    stack = AdapterStack(nn.Sequential(layer))
    index = stack.add(
        AdapterSettings(rank=2, adapter_type=kind),
        by_activations=True,
        change_base=lambda: layer.to(torch.bfloat16),
    )
    x = torch.randn(8, 64)
    before = layer(x).detach()
    left = next(p for p in stack.parameters(index) if p.shape == (48, 2))
    with torch.no_grad():
        left.fill_(1e-4)
    change = layer(x) - before
    update = next(iter(updates_of(layer).values()))
    own = own_weight(layer).float()
    expected = x @ (update(own) - own).T
    # Both outputs have the same product with the base; what is left is the rounding of sums in float32.
    tolerance = 16 * torch.finfo(torch.float32).eps * float(before.abs().max())
    assert float((change - expected).detach().abs().max()) <= tolerance
    assert float(expected.detach().abs().max()) > 10 * tolerance


@pytest.mark.parametrize(("bits", "error"), [(8, 1 / 127), (4, 1 / 15)])
def test_quantised_weights_are_near_and_products_pass_gradients(bits: Any, error: float) -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    layer = nn.Linear(128, 96).requires_grad_(False)
    weight = own_weight(layer).clone()
    assert can_hold(layer, bits)
    hold(layer, bits)
    # Half a step, of the range of the row or group; the offset of 4 bits is rounded, too.
    spread = weight.amax(1, keepdim=True) - weight.amin(1, keepdim=True)
    assert bool(((own_weight(layer) - weight).abs() <= error * spread + 1e-7).all())
    assert set(layer.state_dict()) == {"bias"}
    held = sum(b.numel() * b.element_size() for b in layer.buffers())
    assert held < weight.numel() * (1.1 if bits == 8 else 0.76)
    x = torch.randn(3, 128, dtype=torch.float64, requires_grad=True)
    y, parts = torch.randn(3, 96, dtype=torch.float64, requires_grad=True), matrix_parts(layer)
    assert torch.autograd.gradcheck(lambda v: frozen_product(v, parts), x)
    assert torch.autograd.gradcheck(lambda v: frozen_product(v, parts, transposed=True), y)
    assert torch.allclose(layer(x.float()), x.float() @ layer.weight.T + layer.bias, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
def test_a_new_adapter_changes_nothing_whatever_holds_the_base(kind: str) -> None:
    pytest.importorskip("torchao")
    for change in (lambda layer: hold(layer, 4), lambda layer: hold(layer, 8), lambda layer: None):
        torch.manual_seed(0)
        layer = nn.Linear(128, 96).requires_grad_(False)
        stack = AdapterStack(nn.Sequential(layer))
        stack.add(
            AdapterSettings(rank=2, adapter_type=kind),
            by_activations=True,
            change_base=lambda layer=layer, change=change: change(layer),
        )
        x = torch.randn(4, 128)
        # Quotients of norms that are summed in two orders differ from 1 in the last bits.
        torch.testing.assert_close(layer(x), x @ own_weight(layer).T + layer.bias, rtol=1e-4, atol=1e-5)


def _count_norms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    scales = activations._scales
    monkeypatch.setattr(activations, "_scales", lambda *a: counts.append(1) or scales(*a))
    return counts


@pytest.mark.parametrize("kind", sorted(ADAPTER_TYPES))
@pytest.mark.parametrize("name", ["linear", "pointwise conv", "linear as conv"])
def test_without_gradients_norms_are_computed_once_until_something_changes(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits are those of a layer that computes them in every call, with gradients."""
    build, shape = LAYERS[name]
    layer: Any = build().requires_grad_(False).double().eval()
    stack = trained_stack(layer, kind, by_activations=True)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = _count_norms(monkeypatch)

    def output(computed: int) -> Tensor:
        """Of three calls, in which norms are computed so many times."""
        counts.clear()
        with torch.no_grad():
            results = [layer(x) for _ in range(3)]
        assert len(counts) == computed
        expected = layer(x).detach()
        assert all(torch.equal(result, expected) for result in results)
        return results[0]

    outputs = [output(1), output(0)]
    assert torch.equal(*outputs)
    stack.set_strength(0, backbone=0.3)
    outputs.append(output(1))
    (update,) = updates_of(layer).values()
    with torch.no_grad():
        next(update.parameters()).add_(0.5)
    outputs.append(output(1))
    with torch.no_grad():
        layer._parameters["weight"].mul_(2)
    outputs.append(output(1))
    forget_computed_weights(layer)
    assert torch.equal(output(1), outputs[-1])
    for before, after in itertools.pairwise(outputs[1:]):
        assert not torch.equal(before, after)
