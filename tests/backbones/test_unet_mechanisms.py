"""How time and conditioners act in the U-Net and the multilayer perceptron, each by its own mechanism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.mlp import ConditionalMLP
from stable_audio.backbones.unet import UNet
from stable_audio.backbones.unet.attention import TokenRMSNorm
from stable_audio.backbones.unet.conditioning import InputConcatOptions, Merge, SlotOptions
from stable_audio.backbones.unet.layers import ChannelRMSNorm
from stable_audio.backbones.unet.vectors import Mechanism, Vectors
from stable_audio.config.schemas.leaf import arguments, leaf_model
from stable_audio.types import Conditioning, Slot
from tests.golden.kinds.assembly import construct

TINY: dict[str, Any] = {
    "io_channels": 2,
    "channels": 4,
    "multipliers": [1, 2],
    "blocks": 1,
    "groups": 2,
    "attention": [False, True],
    "attention_options": {"heads": 2, "groups": 2},
}


def build(**change: Any) -> UNet:
    """A tiny U-Net as a file describes it, in float64, without a parameter at its initial zero."""
    torch.manual_seed(0)
    backbone = UNet(**arguments(leaf_model(UNet).model_validate({**TINY, **change}))).double()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone.eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def entry(mechanism: str, merge: str = "sum", dim: int = 0) -> dict[str, Any]:
    return {"mechanism": mechanism, "merge": merge, **({"dim": dim} if dim else {})}


GLOBAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "added to the time vector": ({"a": entry("sum", dim=4)}, {"global_cond": {"dim": 4}}),
    "adaptive": (
        {"a": entry("adaptive", dim=4)},
        {"global_cond": {"dim": 4}, "global_mechanism": "adaptive"},
    ),
    "input channels": (
        {"a": entry("concat", dim=4)},
        {"global_cond": {"dim": 4}, "global_mechanism": "concat"},
    ),
    "both adaptive": (
        {"time": entry("adaptive"), "a": entry("adaptive", dim=4)},
        {"global_cond": {"dim": 4}, "time_injection": "scale_shift"},
    ),
}


@pytest.mark.parametrize("name", list(GLOBAL))
def test_mechanisms_by_id_are_the_simple_keys_where_those_can_say_it(name: str) -> None:
    by_id, simple = GLOBAL[name]
    one, other = build(mechanisms=by_id), build(**simple)
    weights = {k.replace("to_time.", f"vectors.projections.{_kind(by_id)}.0."): v for k, v in _state(other)}
    one.load_state_dict(weights)
    assert one.slot_widths == other.slot_widths
    x, t, cond = draw(2, 2, 8), torch.rand(2).double(), Conditioning(global_cond=draw(2, 4))
    torch.testing.assert_close(one(x, t, cond), other(x, t, cond), rtol=1e-12, atol=1e-12)


def _kind(mechanisms: dict[str, Any]) -> str:
    return mechanisms["a"]["mechanism"]


def _state(backbone: nn.Module) -> list[tuple[str, Tensor]]:
    return list(backbone.state_dict().items())


@pytest.mark.parametrize("served", [True, False])
def test_a_vector_in_cross_attention_is_one_more_token(served: bool) -> None:
    """With an identity in front of it, as if it had come in the cross_attn slot."""
    slot = {"cross_attn": {"dim": 16}}
    one = build(mechanisms={"a": entry("cross_attention", dim=16)}, **(slot if served else {}))
    with torch.no_grad():
        one.vectors.to_tokens[0].weight.copy_(torch.eye(16))
        one.vectors.to_tokens[0].bias.zero_()
    other = build(**slot)
    other.load_state_dict({k: v for k, v in _state(one) if not k.startswith("vectors.")})
    x, t, vector, tokens = draw(2, 2, 8), torch.rand(2).double(), draw(2, 16), draw(2, 3, 16)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    cond = Conditioning(global_cond=vector)
    every = Conditioning(cross_attn=vector[:, None])
    if served:
        cond = cond.replace(cross_attn=tokens, cross_attn_mask=mask)
        every = Conditioning(
            cross_attn=torch.cat([tokens, vector[:, None]], dim=1),
            cross_attn_mask=F.pad(mask, (0, 1), value=True),
        )
    expected = other(x, t, every)
    for given in (cond, one.prepare(cond)):
        torch.testing.assert_close(one(x, t, given), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("merge", ["sum", "concat"])
@pytest.mark.parametrize("mechanism", ["adaptive", "sum", "concat", "cross_attention"])
def test_time_and_two_conditioners_act_by_every_mechanism(mechanism: str, merge: str) -> None:
    backbone = build(
        mechanisms={
            "a": entry(mechanism, merge, dim=3),
            "time": entry(mechanism, merge),
            "b": entry("adaptive", dim=2),
        }
    )
    x, t = draw(2, 2, 8), torch.tensor([0.2, 0.7]).double()
    cond = Conditioning(global_cond=draw(2, 5))
    base = backbone(x, t, cond)
    assert not torch.allclose(base, backbone(x, t + 0.1, cond))
    for feature in (0, 4):
        changed = cond.global_cond.clone()
        changed[:, feature] += 1
        assert not torch.allclose(base, backbone(x, t, Conditioning(global_cond=changed)))
    base.square().sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_vectors_of_one_mechanism_are_added_or_stand_side_by_side() -> None:
    vectors = Vectors(
        {
            "a": Mechanism("adaptive", dim=3),
            "b": Mechanism("adaptive", "concat", dim=2),
            "time": Mechanism("adaptive"),
            "c": Mechanism("concat", dim=4),
            "d": Mechanism("concat", "concat", dim=1),
            "e": Mechanism("cross_attention", dim=2),
            "f": Mechanism("cross_attention", "concat", dim=3),
        },
        time_features=5,
        token_dim=6,
    )
    assert vectors.dim == 15
    assert vectors.blocks == [(7, True)]
    time, values = torch.randn(2, 5), torch.randn(2, 15)
    a, b, c, d, e, f = values.split([3, 2, 4, 1, 2, 3], dim=1)
    acting = vectors(time, values)
    summed = time + a @ vectors.projections["adaptive"][0].weight.T
    torch.testing.assert_close(acting.first, torch.cat([summed, b], dim=1))
    assert acting.second is None
    torch.testing.assert_close(acting.planes, torch.cat([c, d], dim=1))
    tokens = torch.stack([vectors.to_tokens[0](e), vectors.to_tokens[1](f)], dim=1)
    torch.testing.assert_close(acting.tokens, tokens)


def test_dropout_by_id_acts_in_training_only() -> None:
    torch.manual_seed(0)
    mechanisms = {"a": Mechanism("concat", "concat", 1, 0.25), "b": Mechanism("concat", "concat", 1, 1.0)}
    vectors = Vectors(mechanisms, time_features=2, token_dim=2)
    ones = torch.ones(4000, 2)
    planes = vectors(torch.zeros(4000, 2), ones).planes
    assert planes[:, 1].sum() == 0
    # Binomial(4000, 0.75): five standard deviations are 0.035.
    assert abs(planes[:, 0].mean().item() - 0.75) < 0.035
    assert torch.equal(vectors.eval()(torch.zeros(4000, 2), ones).planes, ones)


def test_frames_summed_behind_the_first_convolution_are_its_centre_tap() -> None:
    """A 1x1 convolution behind equals one more input channel that only the middle of the kernel sees."""
    frames = {"dim": 3, "sizes": [1, 2], "mechanism": ["concat", "sum"]}
    one, other = build(input_concat=frames), build(input_concat={"dim": 3})
    assert one.slot_widths == other.slot_widths == {Slot.INPUT_CONCAT: 3}
    state = dict(_state(one))
    weight, added = state["network.first.weight"], state.pop("network.add.weight")
    state["network.first.weight"] = torch.cat([weight, F.pad(added, (1, 1))], dim=1)
    state["network.first.bias"] = state["network.first.bias"] + state.pop("network.add.bias")
    other.load_state_dict(state)
    x, t, cond = draw(2, 2, 8), torch.rand(2).double(), Conditioning(input_concat=draw(2, 3, 4))
    torch.testing.assert_close(one(x, t, cond), other(x, t, cond), rtol=1e-10, atol=1e-10)
    alone = build(input_concat={"dim": 2, "mechanism": "sum"})
    assert alone.network.first.weight.shape[1] == 2
    assert alone(x, t, Conditioning(input_concat=draw(2, 2, 8))).shape == x.shape


def test_a_merge_per_conditioner() -> None:
    value = torch.randn(2, 7)
    merge = Merge(
        SlotOptions(dim=5, merge=["sum", "concat", "sum"], sizes=[2, 3, 2]), name="g", axis=1, width_axis=True
    )
    assert merge.width == 7
    torch.testing.assert_close(
        merge(value, training=False), torch.cat([value[:, :2] + value[:, 5:], value[:, 2:5]], dim=1)
    )
    tokens = Merge(
        SlotOptions(dim=9, merge=["sum", "sum", "concat"], sizes=[1, 1, 2]),
        name="c",
        axis=1,
        width_axis=False,
    )
    mask = torch.tensor([[False, True, False, True]])
    assert tokens.mask(mask).tolist() == [[True, False, True]]
    frames = Merge(
        InputConcatOptions(
            dim=4, merge="sum", sizes=[2, 2, 2, 2], mechanism=["sum", "concat", "sum", "concat"]
        ),
        name="f",
        axis=1,
        width_axis=True,
    )
    assert (frames.mechanisms, frames.widths, frames.width) == (["sum", "concat"], [2, 2], 8)
    parts = torch.randn(1, 8, 3).split(2, dim=1)
    found = frames.parts(torch.cat(parts, dim=1), training=False)
    torch.testing.assert_close(found[0], parts[0] + parts[2])
    torch.testing.assert_close(found[1], parts[1] + parts[3])


def test_rms_norm_is_its_formula() -> None:
    x, norm = torch.randn(2, 5, 3, 4), ChannelRMSNorm(5, eps=1e-6)
    norm.weight.data = torch.randn(5)
    expected = x / (x.square().sum(dim=1, keepdim=True) / 5 + 1e-6).sqrt() * norm.weight[:, None, None]
    torch.testing.assert_close(norm(x), expected)
    tokens = TokenRMSNorm(5)
    tokens.load_state_dict(norm.state_dict())
    torch.testing.assert_close(tokens(x.flatten(2).transpose(1, 2)), expected.flatten(2).transpose(1, 2))
    assert norm.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("block", ["plain", "transformer"])
@pytest.mark.parametrize("dims", [1, 2])
def test_rms_norms_are_everywhere_in_place_of_the_others(dims: int, block: str) -> None:
    options = {"heads": 2, "block": block, "feed_forward": 2}
    # Widths that no group norm of 32 groups divides.
    backbone = build(dims=dims, norm="rms", groups=None, attention_options=options)
    kinds = {type(m) for m in backbone.modules()}
    assert ChannelRMSNorm in kinds
    assert not kinds & {nn.GroupNorm, nn.LayerNorm}
    x = draw(2, 2, 4, 8) if dims == 2 else draw(2, 2, 8)
    y = backbone(x, torch.rand(2).double(), Conditioning())
    y.square().sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mechanisms": {"a": entry("sum")}}, "mechanisms.a.dim must be"),
        ({"mechanisms": {"time": entry("sum", dim=3)}}, "takes no dim"),
        ({"mechanisms": {"a": {**entry("sum", dim=1), "dropout": 2.0}}}, "between 0 and 1"),
        ({"mechanisms": {}, "global_cond": {"dim": 2}}, "leave out global_cond"),
        ({"mechanisms": {}, "time_injection": "scale_shift"}, "leave out global_cond"),
        (
            {"mechanisms": {"time": entry("cross_attention")}, "attention": None},
            "no level has cross-attention",
        ),
        ({"norm": "rms"}, "leave out groups 2"),
        ({"norm": "rms", "groups": None}, "leave out attention_options.groups 2"),
        ({"cross_attn": {"dim": 2, "merge": ["sum"], "sizes": [2, 2]}}, "one entry per entry of sizes"),
        ({"input_concat": {"dim": 2, "mechanism": ["sum"]}}, "one entry per entry of sizes"),
        ({"input_concat": {"dim": 3, "merge": ["sum", "concat"], "sizes": [2, 2]}}, "must add up to 3"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**change)


@pytest.mark.parametrize("join", ["adaptive", "sum", "concat"])
def test_mlp_joins_conditioning_to_its_features(join: str) -> None:
    torch.manual_seed(0)
    mlp = construct(
        ConditionalMLP, {"io_channels": 2, "width": 6, "depth": 2, "join": join, "global_cond_dim": 3}
    ).double()
    x, t, given = draw(2, 2, 5), torch.rand(2).double(), draw(2, 3)
    vector = mlp.time_embedding(t, torch.float64) + given @ mlp.to_global.weight.T
    h = mlp.first(x.transpose(1, 2))
    for block in mlp.blocks:
        norm = F.layer_norm(h, (6,))
        if join == "adaptive":
            scale, shift = block.modulation(vector)[:, None].chunk(2, dim=-1)
            norm = norm * (1 + scale) + shift
        elif join == "sum":
            norm = norm + block.modulation(vector)[:, None]
        else:
            norm = torch.cat([norm, vector[:, None].repeat(1, 5, 1)], dim=-1)
        first, last = block.layers[0], block.layers[-1]
        h = h + last(F.silu(first(norm)))
    expected = mlp.last(h).transpose(1, 2)
    torch.testing.assert_close(mlp(x, t, Conditioning(global_cond=given)), expected, rtol=1e-12, atol=1e-12)
