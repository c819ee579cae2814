"""Generation with adapters on a copy of a model, which itself stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.adapters import (
    Adapter,
    AdapterError,
    AdapterSettings,
    AdapterStack,
    AdapterUse,
    with_adapters,
)
from stable_audio.adapters.stack import Gate
from stable_audio.inference.generation.generate import generate
from tests.golden.harness import HERE, Case
from tests.golden.kinds.adapters import adapters_of
from tests.golden.kinds.assembly import build_model, given_tensors
from tests.inference.tiny import build, config

CASE = Case(Path(HERE) / "cases" / "lora_stack.json")


def outputs(model: Any, t: float = 0.6) -> torch.Tensor:
    tensors = {**model.conditioner(CASE.extra["metadata"], "cpu"), **given_tensors(CASE, "cond")}
    cond = model.backbone.prepare(model.wiring(tensors))
    with torch.no_grad():
        return model(CASE.inputs["x"], torch.full_like(CASE.inputs["t"], t), cond)


def uses(**settings: Any) -> list[AdapterUse]:
    return [AdapterUse(adapter=adapter, **settings) for adapter in adapters_of(CASE)]


def test_the_copy_has_the_adapters_and_the_model_does_not() -> None:
    model = build_model(CASE)
    before = outputs(model)
    copy = with_adapters(model, uses())
    changed = outputs(copy)
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(outputs(model), before)
    stack = AdapterStack(model.backbone, model.conditioner)
    for adapter in adapters_of(CASE):
        stack.add(adapter)
    assert torch.equal(outputs(model), changed)


def test_strength_0_and_a_closed_interval_are_the_model() -> None:
    model = build_model(CASE)
    before = outputs(model)
    assert torch.equal(outputs(with_adapters(model, uses(strength=0.0))), before)
    # Only the backbone has gates.
    backbone = [
        AdapterUse(
            adapter=Adapter(
                u.adapter.settings, {k: v for k, v in u.adapter.layers.items() if k[:6] == "model."}
            ),
            gate=Gate((0.7, 1.0)),
        )
        for u in uses()
    ]
    copy = with_adapters(model, backbone)
    assert torch.equal(outputs(copy, 0.6), before)
    assert not torch.allclose(outputs(copy, 0.8), outputs(model, 0.8), atol=1e-3)
    assert torch.equal(outputs(copy, 0.6), before)


def test_tensors_are_shared() -> None:
    model = build_model(CASE)
    copy = with_adapters(model, uses())
    shared = {id(p) for p in model.parameters()} & {id(p) for p in copy.parameters()}
    assert len(shared) == len({id(p) for p in model.parameters()})


def test_generation_with_an_adapter_and_an_interval_that_is_never_reached() -> None:
    model = build(config())
    stack = AdapterStack(model.backbone, model.conditioner)
    index = stack.add(AdapterSettings(rank=2, adapter_type="dora-rows"))
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.3)
    adapter = stack.adapter(index)
    stack.remove(index)

    def rendered(model: Any) -> torch.Tensor:
        return generate(model, ["bell", "drum"], steps=3, seeds=1, cfg_scale=2.0, return_latents=True)

    before = rendered(model)
    backbone = {name: t for name, t in adapter.layers.items() if name.startswith("model.")}
    use = AdapterUse(adapter=Adapter(adapter.settings, backbone))
    assert not torch.allclose(rendered(with_adapters(model, [use])), before, atol=1e-3)
    closed = AdapterUse(adapter=use.adapter, gate=Gate((0.0, 0.0)))
    assert torch.equal(rendered(with_adapters(model, [closed])), before)
    assert torch.equal(rendered(model), before)


def test_conditioning_is_prepared_once_for_each_state_of_the_gates(monkeypatch: Any) -> None:
    model = build(config())
    stack = AdapterStack(model.backbone, model.conditioner)
    index = stack.add(AdapterSettings(rank=2))
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.3)
    adapter = stack.adapter(index)
    stack.remove(index)
    calls: list[Any] = []
    kind = type(model.backbone)
    prepare = kind.prepare
    monkeypatch.setattr(kind, "prepare", lambda self, cond: calls.append(cond) or prepare(self, cond))
    copy = with_adapters(model, [AdapterUse(adapter=adapter, gate=Gate((0.4, 1.0)))])

    def rendered(model: Any) -> torch.Tensor:
        return generate(model, "bell", steps=10, cfg_scale=2.0, return_latents=True)

    latents = rendered(copy)
    assert len(calls) == 2, "open, then closed"
    monkeypatch.undo()
    whole = rendered(with_adapters(model, [AdapterUse(adapter=adapter)]))
    assert not torch.allclose(latents, whole, atol=1e-3)
    with pytest.raises(AdapterError, match="one call of with_adapters"):
        with_adapters(copy, [])


def test_a_model_with_adapters_keeps_them_under_others() -> None:
    model, other = build_model(CASE), build_model(CASE)
    first, second, *_ = uses()
    both = with_adapters(model, [first, second])
    once = with_adapters(other, [first])
    alone = outputs(once)
    assert torch.equal(outputs(with_adapters(once, [second])), outputs(both))
    assert torch.equal(outputs(once), alone)
    stack = AdapterStack(both.backbone, both.conditioner)
    before = outputs(both)
    stack.merge()
    assert torch.equal(outputs(both), before), "what another stack has added is merged, too"
