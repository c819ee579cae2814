"""Padding masks in self-attention: hidden padding is as if it were not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stable_audio.nn.attention import Attention, AttentionOptions, _mean_of
from stable_audio.nn.windowed import banded_mask, windowed_attention
from tests.kernels import AttentionKernels

MASK = torch.tensor([[True] * 5 + [False] * 4, [True] * 9, [False] * 9])


def build(*, causal: bool = False, window: tuple[int, int] | None = None, **options: Any) -> Attention:
    torch.manual_seed(0)
    attention = Attention(
        8,
        dim_heads=4,
        causal=causal,
        sliding_window=window,
        zero_init_output=False,
        options=AttentionOptions(**options),
    ).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return attention


def inputs() -> Tensor:
    return torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"differential": True, "qk_norm": "rms"}, {"feat_scale": True}])
@pytest.mark.parametrize("shape", [{}, {"causal": True}, {"window": (2, 1)}, {"window": (-1, 2)}])
def test_hidden_padding_is_as_if_absent(options: dict[str, Any], shape: dict[str, Any]) -> None:
    attention, x = build(**options, **shape), inputs()
    out = attention(x, padding_mask=MASK)
    torch.testing.assert_close(out[0, :5], attention(x[:1, :5])[0])
    torch.testing.assert_close(out[1], attention(x[1:2])[0])
    assert not out[0, 5:].any()
    assert not out[2].any()
    changed = x.masked_fill(~MASK.unsqueeze(-1), 1e4)
    assert torch.equal(attention(changed, padding_mask=MASK), out)


@pytest.mark.parametrize("shape", [{}, {"causal": True}, {"window": (2, 1)}])
@pytest.mark.parametrize("padding", ["hidden", "zero_values"])
def test_an_item_of_padding_only_gives_numbers_and_gradients(shape: dict[str, Any], padding: Any) -> None:
    attention, x = build(padding=padding, **shape), inputs().requires_grad_()
    out = attention(x, padding_mask=MASK)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad[1].any()


def test_padding_with_zero_values_keeps_its_share_of_attention() -> None:
    attention, x = build(padding="zero_values"), inputs()
    q, k, v = attention.to_qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    shares = (q @ k.mT / 2).softmax(-1)
    mixed = shares @ (v * MASK[:, None, :, None])
    expected = attention.to_out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, padding_mask=MASK), expected)


def test_gains_of_features_take_the_mean_of_the_clip_and_leave_padding_alone() -> None:
    plain, scaled = (build(padding="zero_values", feat_scale=scale) for scale in (False, True))
    scaled.load_state_dict(plain.state_dict(), strict=False)
    x = inputs()
    out = plain(x, padding_mask=MASK)
    mean = out[0, :5].mean(0)
    dc, hf = scaled.lambda_dc, scaled.lambda_hf
    found = scaled(x, padding_mask=MASK)
    torch.testing.assert_close(found[0, :5], out[0, :5] + dc * mean + hf * (out[0, :5] - mean))
    assert torch.equal(found[0, 5:], out[0, 5:])
    assert found[2].isfinite().all()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 200), left=st.integers(-1, 40), right=st.integers(-1, 40), seed=st.integers(0, 1000))
def test_windows_see_no_padding(n: int, left: int, right: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, n, 4, generator=generator, dtype=torch.float64).unbind(0)
    visible = torch.rand(2, n, generator=generator) < 0.6
    mask = banded_mask(n, n, left, right, q.device) & visible[:, None, None, :]
    seen = mask.any(-1)
    found = windowed_attention(q, k, v, left, right, visible)
    assert found.isfinite().all()
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    seen = seen.expand(found.shape[:3])
    torch.testing.assert_close(found[seen], expected[seen])


@pytest.mark.parametrize("window", [None, (3, 2)])
@pytest.mark.parametrize("padding", ["hidden", "zero_values"])
def test_a_mask_leaves_attention_on_fused_kernels(window: Any, padding: Any) -> None:
    torch.manual_seed(0)
    attention = Attention(64, dim_heads=32, sliding_window=window, options=AttentionOptions(padding=padding))
    x, mask = torch.randn(2, 400, 64), torch.arange(400) < torch.tensor([[400], [150]])
    with torch.no_grad(), AttentionKernels() as kernels:
        attention(x, padding_mask=mask)
    assert kernels.fused
    assert not kernels.softmax


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_mean_of_a_long_clip_stays_finite(dtype: torch.dtype) -> None:
    """Its sum, of 4,000 tokens around 20, is beyond float16."""
    x, mask = 20 + torch.randn(2, 5000, 3), torch.arange(5000) < torch.tensor([[4000], [0]])
    mean = _mean_of(x.to(dtype), mask)
    assert mean.dtype is dtype
    expected = torch.stack([x.to(dtype)[0, :4000].double().mean(0), torch.zeros(3).double()])[:, None]
    torch.testing.assert_close(mean.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
