"""Sliding windows: the block algorithm against the full matrix with a band."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_audio.nn.attention import Attention
from stable_audio.nn.windowed import banded_mask, windowed_attention


def test_band_of_a_small_matrix() -> None:
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
    assert torch.equal(banded_mask(4, 4, 2, 1, torch.device("cpu")), expected)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 200), left=st.integers(-1, 40), right=st.integers(-1, 40), seed=st.integers(0, 1000))
def test_blocks_equal_the_banded_matrix(n: int, left: int, right: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, n, 4, generator=generator).unbind(0)
    mask = banded_mask(n, n, left, right, q.device)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(windowed_attention(q, k, v, left, right), expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_blocks_are_finite_and_equal() -> None:
    base = torch.randn(3, 1, 1, 150, 4)
    grads = []
    for windowed in (True, False):
        qkv = base.clone().requires_grad_()
        q, k, v = qkv.unbind(0)
        if windowed:
            out = windowed_attention(q, k, v, 5, 3)
        else:
            mask = banded_mask(150, 150, 5, 3, q.device)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out.square().sum().backward()
        grads.append(qkv.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-5)


def test_attention_sees_the_window_only() -> None:
    torch.manual_seed(0)
    attention = Attention(8, dim_heads=4, sliding_window=(2, 1), zero_init_output=False)
    x = torch.randn(1, 10, 8)
    changed = x.clone()
    changed[:, 5] += 1
    moved = (attention(x) - attention(changed)).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_causal_window_has_no_right_side() -> None:
    torch.manual_seed(0)
    attention = Attention(8, dim_heads=4, sliding_window=(2, 3), causal=True, zero_init_output=False)
    x = torch.randn(1, 10, 8)
    changed = x.clone()
    changed[:, 5] += 1
    moved = (attention(x) - attention(changed)).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [5, 6, 7]
