"""Layers are called as layers, so that whatever stands in their place, such as an adapter, has its effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.adapters import AdapterSettings, AdapterStack
from stable_audio.backbones import BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.transforms.freezing import Freeze
from tests import tiny
from tests.backbones import test_contracts as contracts
from tests.backbones.test_contracts import CASES, conditioning, inputs

DIT = tiny.BACKBONES["dit"]
FURTHER: dict[str, dict[str, Any]] = {
    "dit (conformer)": {**DIT, "conformer": True},
    "dit (convolutions)": {**DIT, "ff_kwargs": {"use_conv": True}},
    "dit (no glu)": {**DIT, "ff_kwargs": {"glu": False}},
    "dit (adaLN, memory)": {**DIT, "global_cond_type": "adaLN", "num_memory_tokens": 2},
}
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class Marked(nn.Module):
    """A layer whose output is changed while `on`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.on, self.calls = layer, False, 0

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        out = self.layer(*args, **kwargs)
        if not self.on:
            return out
        pattern = torch.arange(out.numel(), device=out.device).view_as(out)
        return out * 1.5 + torch.sin(pattern)


def places(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """(owner, name) of every linear or convolutional layer."""
    for owner in list(module.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, LAYERS):
                yield owner, name


def wrap(module: nn.Module) -> dict[str, Marked]:
    """Put a `Marked` around every layer."""
    for owner, name in list(places(module)):
        setattr(owner, name, Marked(getattr(owner, name)))
    return {name: m for name, m in module.named_modules() if isinstance(m, Marked)}


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    further = {name: (BACKBONES["dit"], config) for name, config in FURTHER.items()}
    monkeypatch.setattr(contracts, "CASES", {**CASES, **further})
    return contracts.build


@torch.no_grad()
def outputs(backbone: Backbone) -> list[Tensor]:
    """With conditioning, without, and with prepared conditioning."""
    (x, t), cond = inputs(backbone), conditioning(backbone)
    null = backbone.null(cond)
    branches = [cond, *([null] if null is not None else []), backbone.prepare(cond)]
    return [backbone(x, t, branch) for branch in branches]


@pytest.mark.parametrize("name", [*CASES, *FURTHER])
def test_whatever_wraps_a_layer_is_part_of_the_output(name: str, build: Any) -> None:
    backbone = build(name)
    plain = outputs(backbone)
    marked = wrap(backbone)
    assert marked
    assert all(torch.equal(a, b) for a, b in zip(plain, outputs(backbone)))
    assert [key for key, layer in marked.items() if not layer.calls] == []
    without_effect = []
    for key, layer in marked.items():
        layer.on = True
        if all(torch.equal(a, b) for a, b in zip(plain, outputs(backbone))):
            without_effect.append(key)
        layer.on = False
    assert without_effect == []


@pytest.mark.parametrize("name", [*CASES, *FURTHER])
def test_frozen_layers_may_be_held_in_less_in_any_backbone(name: str, build: Any) -> None:
    plain = outputs(build(name))
    scale = max(float(p.abs().max()) for p in plain)
    names = [key for key, _ in build(name).named_modules() if key]
    for frozen in (["*"], names[::2]):
        backbone = build(name)
        owned = {key for key, _ in backbone.named_parameters()}
        parts = [n for n in frozen if n == "*" or any(key.startswith(f"{n}.") for key in owned)]
        Freeze(frozen=parts, precision="bfloat16").apply(backbone)
        held = [m for m in backbone.modules() if isinstance(m, LAYERS)]
        assert any(p.dtype is torch.bfloat16 for m in held for p in m.parameters(recurse=False))
        for low, full in zip(outputs(backbone), plain):
            assert low.isfinite().all()
            assert float((low.float() - full).abs().max()) < 0.2 * scale


@pytest.mark.parametrize("kind", ["lora", "dora-rows", "bora"])
@pytest.mark.parametrize("name", CASES)
def test_adapters_in_training_do_what_updated_weights_do(name: str, kind: str, build: Any) -> None:
    plain, results = outputs(build(name)), []
    scale = max(float(p.abs().max()) for p in plain)
    for by_activations in (False, True):
        backbone = build(name).requires_grad_(False)
        stack = AdapterStack(backbone)
        torch.manual_seed(1)
        index = stack.add(AdapterSettings(rank=2, adapter_type=kind), by_activations=by_activations)
        for new, old in zip(outputs(backbone), plain):
            assert float((new - old).abs().max()) <= 1e-3 * scale, "a new adapter has an effect"
        for parameter in stack.parameters(index):
            if not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.3)
        results.append(outputs(backbone))
        assert {id(p) for p in backbone.parameters() if p.requires_grad} == {
            id(p) for p in stack.parameters(index)
        }
    # Sums of float32 in another order, through few layers; the adapter itself changes much more.
    for weights, activations in zip(*results):
        assert float((weights - activations).abs().max()) <= 1e-3 * scale
    assert max(float((a - b).abs().max()) for a, b in zip(results[0], plain)) > 1e-2 * scale
