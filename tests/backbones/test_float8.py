"""Which layers of every backbone compute in 8 bits, and that they have their effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.backbones import BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.diffusion.derivative import derivative
from stable_audio.nn import attention_gradient
from stable_audio.nn.float8 import compute_in_float8, float8_layers
from tests import tiny
from tests.backbones import test_contracts as contracts
from tests.backbones.test_contracts import CASES, conditioning, inputs

WIDE: dict[str, dict[str, Any]] = {
    "dit": {"embed_dim": 32, "cond_token_dim": 16},
    "unet": {"channels": 16, "cross_attn": {"dim": 16}, "time": {"dim": 16, "hidden": 16}},
    "mlp": {"width": 16},
}
WIDE["dit (adaLN)"] = WIDE["dit"]
FURTHER = [name for name in ("dit (adaLN)", "dit (x-transformers)") if name in CASES]
"""Widths in place of those in `tiny`, which are no multiples of 16."""


def _at(places: tuple[str, ...], *names: str) -> set[str]:
    return {f"{place}.{name}" for place in places for name in names}


_ADP = tuple(f"{place}.transformer.blocks.0" for place in ("downsamples.0", "bottleneck", "upsamples.0"))
_ADP_LAYERS = ("attention.to_q", "attention.to_kv", "attention.attention.to_out", "feed_forward.0")
_UNET = ("downs.1.stages.0", "middle.0", "ups.0.stages.0", "ups.0.stages.1")
_UNET_LAYERS = ("to_q", "keys_values.to_k", "keys_values.to_v", "to_out")
LAYERS: dict[str, set[str]] = {
    "dit": _at(
        ("transformer.layers.0", "transformer.layers.1"),
        *("self_attn.to_qkv", "self_attn.to_out"),
        *("cross_attn.to_q", "cross_attn.to_kv", "cross_attn.to_out"),
        *("ff.ff.0.proj", "ff.ff.2", "to_local_embed.2"),
    ),
    "DAU1d": set(),  # convolutions
    "adp_cfg_1d": _at(
        _ADP, *_ADP_LAYERS, "feed_forward.2", "cross_attention.to_q", "cross_attention.attention.to_out"
    ),
    "adp_1d": _at(_ADP, *_ADP_LAYERS, "feed_forward.2"),
    "unet": _at(
        tuple(f"network.{place}.attention.layers.0" for place in _UNET),
        *(
            f"{attention}.{name}"
            for attention in ("self_attention", "cross_attention")
            for name in _UNET_LAYERS
        ),
        *("feed_forward.to_hidden", "feed_forward.to_out"),
    ),
    "mlp": {"blocks.0.layers.0", "blocks.0.layers.3"},
}
"""Of the backbones in `tiny` with the widths above, those that compute in 8 bits: for frames and tokens, in
blocks. Layers that embed what comes in, make what goes out, or see one vector per item are not among them."""


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    wide = {name: (cls, {**config, **WIDE.get(name, {})}) for name, (cls, config) in CASES.items()}
    monkeypatch.setattr(contracts, "CASES", wide)
    return contracts.build


def names_of(backbone: Backbone) -> set[str]:
    layers = {id(layer) for layer in float8_layers(backbone.units, backbone.hidden_matrices())}
    return {name for name, part in backbone.named_modules() if id(part) in layers}


def converted(build: Any, name: str) -> tuple[Backbone, Backbone, list[str]]:
    """A backbone as it is, one that computes in 8 bits, and the names of its layers that do."""
    backbone = build(name)
    layers = float8_layers(backbone.units, backbone.hidden_matrices())
    return build(name), backbone, compute_in_float8(backbone, layers, scaling="tensorwise", emulated=True)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach() - expected.detach()).norm() / expected.detach().norm())


@pytest.mark.parametrize("name", list(tiny.BACKBONES))
def test_layers_in_8_bits_are_those_for_frames_and_tokens_in_blocks(name: str, build: Any) -> None:
    assert names_of(build(name)) == LAYERS[name]


HAVE_SOME = pytest.mark.parametrize("name", [n for n, layers in LAYERS.items() if layers] + FURTHER)


@HAVE_SOME
def test_outputs_and_gradients_are_close_to_those_in_more_bits(name: str, build: Any) -> None:
    plain, low, names = converted(build, name)
    assert list(low.state_dict()) == list(plain.state_dict())
    called = dict.fromkeys(names, 0)
    for key in names:
        low.get_submodule(key).register_forward_hook(
            lambda *_, k=key: called.update({k: called[k] + 1})  # type: ignore[misc]
        )
    gradients = [contracts.gradients(backbone) for backbone in (plain, low)]
    assert all(called.values())
    assert gradients[0].keys() == gradients[1].keys()
    for key in (f"{n}.weight" for n in names):
        exact, found = (g[key] for g in gradients)
        assert exact is not None
        assert found is not None
        assert 1e-3 < _error(found, exact) < 0.5, key
    outputs = [backbone(*inputs(backbone), conditioning(backbone)) for backbone in (plain, low)]
    assert 1e-5 < _error(outputs[1], outputs[0]) < 0.1


@HAVE_SOME
def test_without_gradients_nothing_changes(name: str, build: Any) -> None:
    plain, low, _ = converted(build, name)
    (x, t), cond = inputs(low), conditioning(low)
    with torch.no_grad():
        assert torch.equal(low(x, t, cond), plain(x, t, cond))


def test_the_derivative_in_time_is_that_of_the_rest(build: Any) -> None:
    """Which objectives take without gradients; torchao's products have none in forward mode."""
    plain, low, _ = converted(build, "dit")
    (x, t), cond = inputs(low), conditioning(low)
    slopes = [derivative(lambda x, t, b=b: b(x, t, cond), x, t, x) for b in (low, plain)]  # type: ignore[misc]
    assert torch.equal(*slopes)


@HAVE_SOME
def test_recomputed_blocks_have_the_same_gradients(name: str, build: Any) -> None:
    _, low, _ = converted(build, name)
    kept = contracts.gradients(low)
    low.enable_gradient_checkpointing()
    for key, value in contracts.gradients(low).items():
        expected = kept[key]
        assert (value is None) == (expected is None)
        assert value is None or torch.equal(value, expected), key


def test_every_registered_backbone_says_what_computes_in_8_bits() -> None:
    assert set(LAYERS) == set(BACKBONES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo's
def test_a_compiled_backbone_is_one_graph_with_the_same_gradients(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_gradient, "MOST_KEYS", 0)  # compiled networks attend to few keys otherwise
    _, low, _ = converted(build, "dit")
    (x, t), cond = inputs(low), conditioning(low)

    def gradients(network: Any) -> list[Tensor | None]:
        low.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = network(x, t, cond)
        out.float().square().sum().backward()
        return [p.grad for p in low.parameters()]

    expected = gradients(low)
    torch._dynamo.reset()
    found = gradients(torch.compile(low, backend="eager", fullgraph=True))
    torch._dynamo.reset()
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)
