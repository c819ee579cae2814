"""Adapters on layers and models: selection, no effect at first, training, gates, stacking and merging."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stable_audio.adapters import ADAPTER_TYPES, AdapterError, AdapterSettings, AdapterStack
from stable_audio.adapters.layers import own_weight, updates_of
from stable_audio.adapters.patterns import expanded, filtered, selected
from stable_audio.adapters.stack import Gate, merge_weighted
from stable_audio.adapters.updates import singular_vectors
from stable_audio.nn.precision import parameter_dtype

TYPES = sorted(ADAPTER_TYPES)
EXACT = {"lora", "lora-xs"}
"""Types that leave a weight bit for bit as it is at first; norms are divided out and multiplied again."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.Conv1d(6, 4, 1, groups=2), nn.Linear(8, 8))


def filled(kind: str, module: nn.Module, **settings: object) -> tuple[AdapterStack, int]:
    """A stack with an adapter that has an effect."""
    stack = AdapterStack(module)
    index = stack.add(AdapterSettings(rank=2, adapter_type=kind, **settings))  # type: ignore[arg-type]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return stack, index


def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))


def test_patterns_expand_ranges() -> None:
    assert expanded(" a.[1-3] ") == ["a.1", "a.2", "a.3"]
    assert expanded("[3-2].x.[0-1]") == ["2.x.0", "2.x.1", "3.x.0", "3.x.1"]
    assert selected("model.layers.10.ff", ["layers.1"], None)
    assert not selected("model.layers.1.ff", ["layers.[0-3]"], ["ff"])
    assert not selected("model.Layers.1", ["layers"], None)
    assert filtered("to_global_embed.0", "x, TO_GLOBAL")
    assert not filtered("to_global_embed.0", " , ")


@pytest.mark.parametrize("kind", TYPES)
def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(kind: str) -> None:
    module = network().requires_grad_(False)
    before = module(x())
    keys = {*module.state_dict()}
    stack = AdapterStack(module)
    index = stack.add(AdapterSettings(rank=2, adapter_type=kind))
    after = module(x())
    # Dividing by a norm and multiplying with it rounds twice, both in float32.
    torch.testing.assert_close(after, before, rtol=0, atol=0 if kind in EXACT else 1e-5)
    after.square().sum().backward()
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    assert trained == {id(p) for p in stack.parameters(index)}
    assert keys < {*module.state_dict()}
    stack.remove(index)
    assert {*module.state_dict()} == keys
    assert type(module[0]) is nn.Conv1d
    assert torch.equal(module(x()), before)


@pytest.mark.parametrize("kind", TYPES)
def test_strength_0_and_a_closed_gate_are_the_base(kind: str) -> None:
    module = network().eval()
    with torch.no_grad():
        before = module(x())
        stack, index = filled(kind, module)
        changed = module(x())
        assert not torch.allclose(changed, before, atol=1e-3)
        stack.set_strength(index, backbone=0.0)
        assert torch.equal(module(x()), before)
        stack.set_strength(index, backbone=1.0)
        assert torch.equal(module(x()), changed)
        stack.gate(0.3, {index: Gate((0.4, 1.0))})
        assert torch.equal(module(x()), before)
        stack.gate(0.4, {index: Gate((0.4, 1.0))})
        assert torch.equal(module(x()), changed)
        stack.gate(0.4, {index: Gate(layer_filter="[0-2]")})
        assert torch.equal(module(x()), before)


@pytest.mark.parametrize("kind", TYPES)
def test_merged_and_unmerged_outputs_agree(kind: str) -> None:
    module = network().eval()
    base = module[0].weight
    original = base.detach().clone()
    stack, _ = filled(kind, module)
    with torch.no_grad():
        unmerged = module(x())
        stack.merge()
        assert torch.equal(module(x()), unmerged)
    assert torch.equal(base, original), "tensors that others share are not written to"
    assert not stack.settings
    assert type(module[0]) is nn.Conv1d


def test_the_stored_weight_follows_its_parts() -> None:
    """Without gradients the updated weight is computed once; it must not outlive what it came from."""
    module = network().eval()
    _stack, _index = filled("dora-rows", module)
    layer = module[2]
    with torch.no_grad():
        first = layer.weight
        assert layer.weight is first
        next(iter(updates_of(layer).values())).lora_B.add_(1.0)  # type: ignore[operator, union-attr]
        second = layer.weight
        assert not torch.equal(second, first)
        layer._parameters["weight"].add_(1.0)  # type: ignore[union-attr]
        assert not torch.equal(layer.weight, second)
    assert layer.weight.requires_grad, "with gradients it is computed anew"


def test_indices_stay_when_another_is_removed() -> None:
    module, lone = network(), network()
    stack = AdapterStack(module)
    first = stack.add(AdapterSettings(rank=2))
    second = stack.add(AdapterSettings(rank=3, adapter_type="lora", include=["2"]))
    with torch.no_grad():
        for parameter in [*stack.parameters(first), *stack.parameters(second)]:
            parameter.fill_(0.1)
    stack.remove(first)
    other = AdapterStack(lone)
    index = other.add(AdapterSettings(rank=3, include=["2"]))
    with torch.no_grad():
        for parameter in other.parameters(index):
            parameter.fill_(0.1)
    assert torch.equal(module(x()), lone(x()))
    assert [*stack.settings] == [second]


def test_a_weighted_merge_adds_what_each_does_alone() -> None:
    module, base = network(), network()
    stack, index = filled("dora-cols", network())
    adapter = stack.adapter(index)
    alone = AdapterStack(network())
    alone.add(adapter)
    expected = {n: own_weight(layer) for n, layer in AdapterStack(base).layers.items()}
    changed = {n: w.flatten(1) for n, w in alone.weights().items()}
    merge_weighted(AdapterStack(module), [(adapter, 0.75), (adapter, -0.25)])
    for name, layer in AdapterStack(module).layers.items():
        want = expected[name] + 0.5 * (changed[name] - expected[name])
        torch.testing.assert_close(own_weight(layer), want, rtol=0, atol=1e-6)


def test_dropout_leaves_out_input_features_in_training_only() -> None:
    module = nn.Sequential(nn.Linear(400, 3))
    _stack, index = filled("lora", module, dropout=0.5)
    update = updates_of(module[0])[str(index)]
    base, whole = own_weight(module[0]).detach(), update.lora_B @ update.lora_A  # type: ignore[operator, union-attr]
    change = (module[0].weight - base).detach()
    dropped = (change.abs().amax(0) < 1e-6).float().mean().item()
    assert 0.35 < dropped < 0.65  # 6 deviations of a share of 400 features
    rest = change.abs().amax(0) >= 1e-6
    torch.testing.assert_close(change[:, rest], 2 * whole[:, rest].detach(), rtol=0, atol=1e-5)
    module.eval()
    torch.testing.assert_close(module[0].weight - base, whole, rtol=0, atol=1e-6)


def test_singular_vectors_have_a_sign_and_a_rank_that_the_layer_allows() -> None:
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    u, v = singular_vectors(weight, 2)
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(
        u.T @ weight @ v, torch.diag(torch.linalg.svdvals(weight)[:2]), atol=1e-5, rtol=0
    )
    stack = AdapterStack(nn.Sequential(nn.Linear(3, 5)))
    index = stack.add(AdapterSettings(rank=16, adapter_type="lora-xs"))
    assert [tuple(p.shape) for p in stack.parameters(index)] == [(3, 3)]


def test_layers_with_two_axes_of_time_and_computed_weights() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.utils.weight_norm(nn.Conv1d(2, 2, 1)))
    assert [*AdapterStack(module).layers] == ["model.0"]
    stack, index = filled("lora", module)
    assert sorted(tuple(p.shape) for p in stack.parameters(index)) == [(2, 18), (3, 2)]
    assert module[0](torch.ones(1, 2, 5, 5)).shape == (1, 3, 3, 3)


@pytest.mark.parametrize(
    "values", [{"adapter_type": "loha"}, {"rank": 0}, {"dropout": 1.0}, {"alpha": float("nan")}]
)
def test_settings_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        AdapterSettings(**values)  # type: ignore[arg-type]


def test_patterns_that_select_nothing() -> None:
    stack = AdapterStack(network())
    with pytest.raises(AdapterError, match=r"'layers\[0-1\]' is part of no layer's name"):
        stack.add(AdapterSettings(include=["0", "layers[0-1]"]))
    with pytest.raises(AdapterError, match="leave no layer"):
        stack.add(AdapterSettings(exclude=["model"]))


def test_adapters_in_half_precision_models() -> None:
    module = network().eval().to(torch.bfloat16)
    stack, index = filled("bora", module)
    assert {p.dtype for p in stack.parameters(index)} == {torch.float32}
    assert module(x().bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("kind", TYPES)
def test_a_model_computes_in_the_type_of_its_own_weights(kind: str) -> None:
    """The tensors of an adapter are float32 in a model that is held in less."""
    module = network().to(torch.bfloat16)
    filled(kind, module)
    assert parameter_dtype(module) is torch.bfloat16
    assert parameter_dtype(module[2]) is torch.bfloat16
    assert parameter_dtype(filled(kind, network())[0].layers["model.0"]) is torch.float32
