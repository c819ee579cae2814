"""Adapters converted, extracted and described: the same weights again, or a sentence that says why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.adapters import ADAPTER_TYPES, Adapter, AdapterError, AdapterSettings, AdapterStack
from stable_audio.adapters.conversion import converted, every_strength
from stable_audio.adapters.extraction import extracted
from stable_audio.adapters.layers import own_weight
from stable_audio.adapters.report import described

TYPES = sorted(ADAPTER_TYPES)
RANK = 3


class Model(nn.Module):
    """A stand-in for a diffusion model: layers with one, two and three axes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Linear(6, 8), nn.Conv1d(4, 6, 3), nn.Conv2d(3, 5, 2), nn.Linear(4, 4), nn.LayerNorm(4)
        )
        self.conditioner = nn.Sequential(nn.Linear(5, 7))

    @property
    def stack(self) -> AdapterStack:
        return AdapterStack(self.backbone, self.conditioner)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: own_weight(layer).detach() for name, layer in self.stack.layers.items()}


def some_adapter(kind: str, **settings: Any) -> Adapter:
    """An adapter with an effect."""
    stack = Model().stack
    index = stack.add(AdapterSettings(rank=RANK, alpha=2.0, adapter_type=kind, **settings))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in stack.parameters(index):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
    return stack.adapter(index)


def weights_with(adapter: Adapter, strength: float = 1.0) -> dict[str, torch.Tensor]:
    stack = Model().stack
    index = stack.add(adapter)
    stack.set_strength(index, backbone=strength, conditioner=strength)
    return stack.weights()


EXACT = [
    ("lora-xs", "lora"),
    ("dora-rows-xs", "dora-rows"),
    ("dora-cols-xs", "dora-cols"),
    ("bora-xs", "bora"),
    ("lora", "dora-rows"),
    ("lora", "dora-cols"),
    ("lora", "bora"),
    ("lora-xs", "bora-xs"),
    ("lora-xs", "dora-rows"),
    ("dora-rows", "bora"),
    ("dora-cols", "bora"),
    ("dora-rows-xs", "bora"),
]


@pytest.mark.parametrize(("old", "new"), EXACT)
def test_types_that_give_the_same_weights(old: str, new: str) -> None:
    first = some_adapter(old)
    second = converted(first, new, Model().weights)
    assert second.settings.adapter_type == new
    assert second.settings.scaling == 1
    for strength in (1.0, 0.5):
        before, after = weights_with(first, strength), weights_with(second, strength)
        if strength == 1.0 or every_strength(old, new):
            for name, weight in before.items():
                # Weights up to 1 in float32, whose norms are sums of up to 12 squares; rounded a few times.
                torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-5)
        else:
            assert any(not torch.allclose(after[n], w, atol=1e-3) for n, w in before.items())


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_stays_what_it_is_without_a_model(kind: str) -> None:
    first = some_adapter(kind)
    assert converted(first, kind, None) is first


@pytest.mark.parametrize(
    ("old", "new"),
    [("dora-rows", "lora"), ("bora", "dora-rows"), ("dora-cols", "dora-rows"), ("lora", "lora-xs")],
)
def test_types_that_do_not(old: str, new: str) -> None:
    with pytest.raises(AdapterError, match=f"no '{new}' of rank 3 gives the weights of this '{old}'"):
        converted(some_adapter(old), new, Model().weights)


def test_what_happens_to_be_the_same_is_converted() -> None:
    """Norms that follow from the term, and a term within the singular vectors."""
    weights = Model().weights
    lora = some_adapter("lora")
    again = converted(converted(lora, "dora-rows", weights), "lora", weights)
    xs = converted(converted(some_adapter("lora-xs"), "lora", weights), "lora-xs", weights)
    for first, second in ((lora, again), (some_adapter("lora-xs"), xs)):
        before, after = weights_with(first), weights_with(second)
        for name, weight in before.items():
            torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-5)


def test_what_a_conversion_needs() -> None:
    with pytest.raises(AdapterError, match="needs the weights of its model; name the model with --base"):
        converted(some_adapter("lora"), "bora", None)
    with pytest.raises(AdapterError, match="type 'lroa' is unknown; did you mean 'lora'"):
        converted(some_adapter("lora"), "lroa", None)


def tuned(rank: int = 2) -> Model:
    """The model with changes of a rank in three layers, and of a bias and a norm."""
    model = Model()
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for layer in (model.backbone[0], model.backbone[1], model.backbone[2]):
            weight = layer.weight.flatten(1)  # type: ignore[operator, union-attr]
            up = torch.randn(len(weight), rank, generator=noise)
            down = torch.randn(rank, weight.shape[1], generator=noise)
            layer.weight.add_((up @ down).view_as(layer.weight))  # type: ignore[operator, union-attr, arg-type]
        model.backbone[0].bias.add_(1.0)  # type: ignore[operator, union-attr]
        model.backbone[4].weight.add_(0.5)  # type: ignore[operator, union-attr]
    return model


def test_extraction_is_the_best_of_its_rank() -> None:
    base, other = Model(), tuned(rank=3)
    result = extracted(base, other, rank=2)
    assert result.adapter.settings.rank == 2
    assert set(result.adapter.layers) == {"model.0", "model.1", "model.2"}
    after, target = weights_with(result.adapter), other.weights
    squares = rest = 0.0
    for name, start in base.weights.items():
        difference = (target[name] - start).double()
        if name not in result.errors:
            assert not difference.any()
            continue
        # Eckart & Young: the best approximation leaves out the other singular values.
        values = torch.linalg.svdvals(difference)
        best = float(values[2:].norm() / values.norm())
        assert result.errors[name] == pytest.approx(best, abs=1e-5)
        left = target[name].double() - after[name].flatten(1).double()
        assert float(left.norm() / difference.norm()) == pytest.approx(best, abs=1e-5)
        squares, rest = squares + float(difference.norm()) ** 2, rest + float(left.norm()) ** 2
    assert result.others == {
        "backbone.0.bias": pytest.approx(8**0.5, abs=1e-6),
        "backbone.4.weight": pytest.approx(1.0, abs=1e-6),
    }
    assert result.error == pytest.approx(((rest + 9) / (squares + 9)) ** 0.5, abs=1e-5)


def test_extraction_to_a_share_of_the_change() -> None:
    base, other = Model(), tuned(rank=3)
    whole = extracted(base, other, energy=1 - 1e-6)
    assert whole.adapter.settings.rank == 3
    assert max(whole.errors.values()) < 2e-3  # the square root of the share that may be left out, and more
    for share in (0.5, 0.8, 0.95):
        result = extracted(base, other, energy=share)
        rank = result.adapter.settings.rank
        shares = [_share(base, other, r) for r in (rank - 1, rank)]
        assert shares[0] < share <= shares[1]


def _share(base: Model, other: Model, rank: int) -> float:
    """The share of the squares of all differences that the first singular values have."""
    values = [
        torch.linalg.svdvals((w - base.weights[n]).double())
        for n, w in other.weights.items()
        if n in ("model.0", "model.1", "model.2")
    ]
    return sum(float((v[:rank] ** 2).sum()) for v in values) / sum(float((v**2).sum()) for v in values)


def test_extraction_of_selected_layers() -> None:
    result = extracted(Model(), tuned(), rank=2, include=["model.[0-1]"], exclude=["1"])
    assert set(result.adapter.layers) == {"model.0"}
    assert {"backbone.1.weight", "backbone.2.weight"} <= set(result.others)


def test_what_cannot_be_extracted() -> None:
    with pytest.raises(AdapterError, match="no layer that adapters change differs"):
        extracted(Model(), Model(), rank=2)
    with pytest.raises(AdapterError, match="either a rank or an energy"):
        extracted(Model(), tuned())
    with pytest.raises(AdapterError, match=r"--energy must be above 0 and at most 1, found 1\.5"):
        extracted(Model(), tuned(), energy=1.5)
    other = Model()
    other.backbone[0] = nn.Linear(6, 9)
    with pytest.raises(AdapterError, match=r"different networks: backbone\.0\.bias has the shapes"):
        extracted(Model(), other, rank=2)


@pytest.mark.parametrize("kind", TYPES)
def test_a_description_has_the_norms(kind: str) -> None:
    adapter = some_adapter(kind)
    values = described(adapter, Model())
    base, after = Model().weights, weights_with(adapter)
    for name, layer in values["layers"].items():
        change = after[name].flatten(1) - base[name]
        assert layer["relative_change"] == pytest.approx(float(change.norm() / base[name].norm()), rel=1e-4)
        if kind in ("lora", "lora-xs"):
            assert layer["update_norm"] == pytest.approx(float(change.norm()), rel=1e-4)
    assert (values["backbone_layers"], values["conditioner_layers"]) == (4, 1)
    assert values["model"] == {"fits": True, "reason": None, "trained_on": "unknown"}
    assert values["parameters"] == sum(layer["parameters"] for layer in values["layers"].values())


def test_a_description_says_that_it_does_not_fit() -> None:
    other = Model()
    other.backbone[0] = nn.Linear(6, 9)
    model = described(some_adapter("lora"), other)["model"]
    assert not model["fits"]
    assert "model.0 has tensors of the shapes" in model["reason"]
