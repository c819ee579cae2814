"""What an adapter of every type does on every backbone, whatever either is inside."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.adapters import (
    ADAPTER_TYPES,
    Adapter,
    AdapterSettings,
    AdapterStack,
    AdapterUse,
    read_adapter,
    with_adapters,
    write_adapter,
)
from stable_audio.adapters.layers import own_weight
from stable_audio.adapters.rescaling import Rescaling
from stable_audio.adapters.stack import BACKBONE, Gate
from stable_audio.backbones import BACKBONES
from stable_audio.diffusion.objectives import OBJECTIVES
from tests import tiny
from tests.backbones import test_contracts as contracts
from tests.golden.kinds.assembly import construct

PLANES: dict[str, Any] = {
    "io_channels": 2,
    "channels": 4,
    "multipliers": [1, 2],
    "blocks": 1,
    "groups": 2,
    "dims": 2,
    "height": 4,
}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    **{name: (BACKBONES[name], config) for name, config in tiny.BACKBONES.items()},
    "unet (2 axes)": (BACKBONES["unet"], PLANES),
}
EVERYWHERE = pytest.mark.parametrize("backbone", list(CASES))
OF_EVERY_TYPE = pytest.mark.parametrize("kind", list(ADAPTER_TYPES))
ROUNDING = 8 * torch.finfo(torch.float32).eps
"""Relative: a weight is multiplied by its norm and divided by it, twice in `bora`, and each step rounds."""


class Model(nn.Module):
    """The parts of a diffusion model that adapters meet."""

    def __init__(self, name: str) -> None:
        super().__init__()
        cls, config = CASES[name]
        torch.manual_seed(0)
        self.backbone = construct(cls, config)
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():  # no parameter at its initial zero, which would hide paths
            for parameter in self.backbone.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
        self.conditioner = nn.Sequential(nn.Linear(3, 4))
        self.objective = OBJECTIVES["rectified_flow"]()
        self.eval()

    @property
    def stack(self) -> AdapterStack:
        return AdapterStack(self.backbone, self.conditioner)


def output(model: Any, sigma: float = 0.5) -> Tensor:
    backbone = model.backbone
    x, t = contracts.inputs(backbone)
    cond = backbone.prepare(contracts.conditioning(backbone))
    return backbone(x, torch.full_like(t, sigma), cond)


def some_adapter(model: Model, kind: str, *, seed: int = 3, **settings: Any) -> Adapter:
    """An adapter with an effect on every layer."""
    stack = model.stack
    index = stack.add(AdapterSettings(rank=2, adapter_type=kind, **settings))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=noise))
    adapter = stack.adapter(index)
    stack.remove(index)
    return adapter


@EVERYWHERE
@OF_EVERY_TYPE
def test_a_new_adapter_has_no_effect_and_all_of_it_is_trained(backbone: str, kind: str) -> None:
    model = Model(backbone).requires_grad_(False)
    before = output(model)
    stack = model.stack
    index = stack.add(AdapterSettings(rank=2, adapter_type=kind, include=[BACKBONE]))
    with torch.no_grad():
        for name, layer in stack.layers.items():
            weight = layer.weight.flatten(1)  # type: ignore[operator, union-attr]
            plain = ADAPTER_TYPES[kind].rescaling is Rescaling
            torch.testing.assert_close(
                weight, own_weight(layer), rtol=0 if plain else ROUNDING, atol=0, msg=name
            )
    after = output(model)
    # Weights with gradients may lie elsewhere in memory, and sums of products be added up in another order.
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * float(before.abs().max()))
    after.square().sum().backward()
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in stack.parameters(index)}
    # A has no gradient while B is 0, and what a call does not use has none; the rest has.
    reached = [p.grad is not None and bool(p.grad.any()) for p in stack.parameters(index)]
    assert sum(reached) >= len(reached) / 4
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@EVERYWHERE
@OF_EVERY_TYPE
def test_it_is_saved_loaded_and_merged(backbone: str, kind: str, tmp_path: Path) -> None:
    model = Model(backbone)
    with torch.no_grad():
        before = output(model)
        path = tmp_path / "a.ckpt"  # float32
        write_adapter(path, some_adapter(model, kind))
        adapted = with_adapters(model, [AdapterUse(adapter=read_adapter(path))])
        changed = output(adapted)
        assert not torch.allclose(changed, before, atol=1e-3)
        assert torch.equal(output(model), before), "the model itself stays as it is"
        stack = AdapterStack(adapted.backbone, adapted.conditioner)
        weights = stack.weights()
        stack.merge()
        for name, weight in weights.items():
            assert torch.equal(own_weight(stack.layers[name]), weight.flatten(1)), name
        # The same weights at other places in memory: sums of products may be added up in another order.
        scale = float(changed.abs().max())
        torch.testing.assert_close(output(adapted), changed, rtol=0, atol=1e-4 * scale)
        assert set(adapted.state_dict()) == set(model.state_dict())


@EVERYWHERE
@OF_EVERY_TYPE
def test_strength_0_and_closed_gates_are_the_base(backbone: str, kind: str) -> None:
    model = Model(backbone)
    adapter = some_adapter(model, kind, include=[BACKBONE])

    def adapted(**settings: Any) -> Any:
        return with_adapters(model, [AdapterUse(adapter=adapter, **settings)])

    with torch.no_grad():
        before = output(model)
        changed = output(adapted())
        assert torch.equal(output(adapted(strength=0.0)), before)
        gated = adapted(gate=Gate((0.6, 1.0)))
        assert torch.equal(output(gated, 0.5), before)
        assert not torch.allclose(output(gated, 0.6), output(model, 0.6), atol=1e-3)
        assert torch.equal(output(gated, 0.5), before), "and closes again"
        everything = ",".join(name.removeprefix(BACKBONE) for name in adapter.layers)
        assert torch.equal(output(adapted(gate=Gate(layer_filter=everything))), before)
        # Without one layer the others still apply, and that layer has its own weight.
        one = next(iter(adapter.layers))
        filtered = adapted(gate=Gate(layer_filter=one.removeprefix(BACKBONE)))
        layers = AdapterStack(filtered.backbone).layers
        assert torch.equal(layers[one].weight.flatten(1), own_weight(layers[one]))  # type: ignore[operator, union-attr]
        assert torch.equal(output(adapted()), changed)


@EVERYWHERE
@OF_EVERY_TYPE
def test_two_apply_one_after_the_other(backbone: str, kind: str) -> None:
    model = Model(backbone)
    uses = [
        AdapterUse(adapter=some_adapter(model, kind, seed=3), strength=0.7),
        AdapterUse(adapter=some_adapter(model, "lora", seed=4, include=[BACKBONE]), strength=-0.5),
    ]
    with torch.no_grad():
        both = with_adapters(model, uses)
        first = with_adapters(model, uses[:1])
        before = AdapterStack(first.backbone, first.conditioner).weights()
        after = AdapterStack(both.backbone, both.conditioner).weights()
        for name, weight in after.items():
            change = 0.0
            if name in uses[1].adapter.layers:
                t = SimpleNamespace(**uses[1].adapter.layers[name])
                change = -0.5 * (t.lora_B @ t.lora_A).view_as(weight)
            torch.testing.assert_close(weight, before[name] + change, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(output(both), output(first), atol=1e-3)


@EVERYWHERE
@OF_EVERY_TYPE
def test_thin_products_give_the_same_without_the_weights(backbone: str, kind: str) -> None:
    model = Model(backbone)
    uses = [AdapterUse(adapter=some_adapter(model, kind), strength=0.7)]
    with torch.no_grad():
        stored = with_adapters(model, uses)
        expected = output(stored)
        thin = with_adapters(model, uses, thin=True)
        # Products in another order, in float32; adapters change outputs by tenths.
        torch.testing.assert_close(output(thin), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
        assert any("_effective" in m.__dict__ for m in stored.modules())
        assert not any("_effective" in m.__dict__ for m in thin.modules() if type(m).__mro__[2] is nn.Linear)
        assert torch.equal(output(with_adapters(model, [], thin=True)), output(model))
