"""Norms, rotary and other embeddings, feed-forward: closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stable_audio.nn.embeddings import (
    ExpoFourierFeatures,
    FourierFeatures,
    LearnedPositions,
    SinusoidalPositions,
)
from stable_audio.nn.feedforward import GLU, FeedForward, FeedForwardOptions
from stable_audio.nn.norms import DynamicTanh, LayerNorm, NormOptions, RMSNorm, build_norm
from stable_audio.nn.rotary import RotaryEmbedding, apply_rotary, rotary_dim


def test_layer_norm_has_zero_mean_and_unit_variance() -> None:
    y = LayerNorm(64)(torch.randn(3, 64) * 5 + 2)
    torch.testing.assert_close(y.mean(-1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_norms_are_their_formulas(eps: float) -> None:
    x = torch.randn(3, 8) * 2 + 1
    layer, rms = LayerNorm(8, NormOptions(bias=True, eps=eps)), RMSNorm(8, NormOptions(eps=eps))
    with torch.no_grad():
        for parameter in (*layer.parameters(), *rms.parameters()):
            parameter.copy_(torch.randn(8))
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    torch.testing.assert_close(layer(x), layer.gamma * centred * scale + layer.beta)
    torch.testing.assert_close(rms(x), rms.gamma * x * (x.square().mean(-1, keepdim=True) + eps).rsqrt())


def test_layer_norm_options_decide_what_is_trained() -> None:
    assert {n for n, _ in LayerNorm(4).named_parameters()} == {"gamma"}
    assert {n for n, _ in LayerNorm(4, NormOptions(bias=True)).named_parameters()} == {"gamma", "beta"}
    assert not list(LayerNorm(4, NormOptions(fix_scale=True)).parameters())
    assert set(LayerNorm(4).state_dict()) == {"gamma", "beta"}


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_force_fp32_keeps_the_input_type_and_the_precision(norm: type) -> None:
    x = (torch.randn(4, 256) * 100).bfloat16()
    y = norm(256, NormOptions(force_fp32=True)).bfloat16()(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, norm(256)(x.float()).bfloat16())


def test_rms_norm_has_unit_mean_square() -> None:
    y = RMSNorm(64)(torch.randn(3, 64) * 5 + 2)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(3), atol=1e-4, rtol=0)


def test_dynamic_tanh_formula() -> None:
    norm = DynamicTanh(2)
    assert norm.alpha.item() == 10
    x = torch.tensor([[0.01, -0.2]])
    torch.testing.assert_close(norm(x), torch.tanh(10 * x))


def test_norm_options_that_have_no_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="dynamic tanh takes no options"):
        build_norm("dyt", 4, NormOptions(eps=1e-3))
    with pytest.raises(ValueError, match="rms_norm has no shift"):
        build_norm("rms_norm", 4, NormOptions(bias=True))
    with pytest.raises(ValueError, match="norm_type is 'batch'"):
        build_norm("batch", 4, NormOptions())


def test_rotary_turns_by_position_times_frequency() -> None:
    tables = RotaryEmbedding(4)(3)
    x = torch.zeros(1, 3, 1, 6)
    x[..., 0] = 1  # first of pair 0 (channels 0 and 2); channels 4 and 5 pass through
    x[..., 4] = 7
    y = apply_rotary(x, tables)
    for p in range(3):
        torch.testing.assert_close(
            y[0, p, 0], torch.tensor([math.cos(p), 0, math.sin(p), 0, 7, 0], dtype=torch.float32)
        )


def test_rotary_gradient_is_joined_once() -> None:
    """Bit for bit that of slices, each of whose gradients would be as large as x and added to the others."""

    class Joins(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    tables = RotaryEmbedding(4)(5)
    cos, sin = tables.cos[:, None], tables.sin[:, None]
    x = torch.randn(2, 5, 3, 6, requires_grad=True)
    a, b = x[..., :2], x[..., 2:4]
    slices = torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 4:]], dim=-1)
    weight = torch.randn_like(slices)
    (expected,) = torch.autograd.grad((weight * slices).sum(), x)
    y = apply_rotary(x, tables)
    assert torch.equal(y, slices)
    with Joins() as joins:
        (found,) = torch.autograd.grad((weight * y).sum(), x)
    assert torch.equal(found, expected)
    assert not any("slice_backward" in name for name in joins.names)


def test_rotary_scores_depend_on_distance() -> None:
    tables = RotaryEmbedding(8)(20)
    q, k = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 20, 1, 8).unbind(0)
    scores = torch.einsum("bihd,bjhd->ij", apply_rotary(q, tables), apply_rotary(k, tables))
    for offset in (-5, 0, 7):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-4)


def test_rotary_frequencies_survive_half_precision() -> None:
    rope = RotaryEmbedding(32)
    before = rope(5000)
    assert rope.half().inv_freq.dtype == torch.float32
    torch.testing.assert_close(rope(5000).cos, before.cos, rtol=0, atol=0)
    assert list(rope.state_dict()) == ["inv_freq"]


@pytest.mark.parametrize(
    ("dim_heads", "expected"), [(128, 64), (64, 32), (48, 32), (32, 32), (16, 16), (8, 8)]
)
def test_rotary_dim(dim_heads: int, expected: int) -> None:
    assert rotary_dim(dim_heads) == expected


def test_fourier_features_put_cos_before_sin() -> None:
    features = FourierFeatures(4)
    with torch.no_grad():
        features.weight.copy_(torch.tensor([[1.0], [0.5]]))
    y = features(torch.tensor([0.25]))
    torch.testing.assert_close(
        y, torch.tensor([[0.0, math.cos(math.pi / 4), 1.0, math.sin(math.pi / 4)]]), atol=1e-6, rtol=0
    )


def test_fourier_features_stay_in_float32() -> None:
    assert FourierFeatures(8).bfloat16()(torch.rand(2).bfloat16()).dtype == torch.float32


def test_expo_features_have_no_parameters() -> None:
    features = ExpoFourierFeatures(8)
    assert not features.state_dict()
    y = features(torch.tensor([0.5]))
    torch.testing.assert_close(y[0, 0], torch.tensor(math.cos(2 * math.pi * 0.5 * 0.5)), atol=1e-6, rtol=0)


def test_sinusoidal_positions() -> None:
    positions = SinusoidalPositions(4)
    torch.nn.init.ones_(positions.scale)
    y = positions(torch.zeros(1, 3, 4))
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    torch.testing.assert_close(y[2], torch.tensor(expected))


def test_learned_positions_refuse_longer_sequences() -> None:
    positions = LearnedPositions(4, max_length=3)
    torch.testing.assert_close(positions(torch.zeros(1, 2, 4)), positions.emb.weight[:2] * 0.5)
    with pytest.raises(ValueError, match="4 tokens, but abs_pos_emb_max_length is 3"):
        positions(torch.zeros(1, 4, 4))


def test_glu_gates_with_the_second_half() -> None:
    glu, x = GLU(3, 2, torch.nn.SiLU()), torch.randn(1, 4, 3)
    value, gate = glu.proj(x).chunk(2, -1)
    torch.testing.assert_close(glu(x), value * gate * gate.sigmoid())


@pytest.mark.parametrize("glu", [True, False])
@pytest.mark.parametrize("use_conv", [True, False])
def test_feed_forward_keeps_the_shape(glu: bool, use_conv: bool) -> None:
    ff = FeedForward(4, options=FeedForwardOptions(glu=glu, use_conv=use_conv), zero_init_output=False)
    assert ff(torch.randn(2, 7, 4)).shape == (2, 7, 4)
    assert FeedForward(4, options=FeedForwardOptions(glu=glu))(torch.randn(2, 7, 4)).abs().max() == 0


def test_sinusoidal_feed_forward() -> None:
    ff = FeedForward(2, options=FeedForwardOptions(glu=False, sinusoidal=True, zero_init_output=False))
    x = torch.randn(1, 3, 2)
    expand, contract = ff.ff[0][1], ff.ff[2]
    torch.testing.assert_close(ff(x), contract(torch.sin(math.pi * expand(x))))


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        FeedForward(4, options=FeedForwardOptions(use_conv=True, conv_kernel_size=4))
