"""Attention against its definition, written out with loops over heads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stable_audio.nn.attention import Attention, AttentionOptions
from stable_audio.nn.rotary import RotaryEmbedding


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for one head, (n d)."""
    scores = q @ k.T / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def build(seed: int = 0, **kwargs) -> Attention:
    torch.manual_seed(seed)
    return Attention(12, dim_heads=4, zero_init_output=False, **kwargs)


def by_heads(attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rows (n heads*d): the reference per head; keys' heads are shared by neighbouring queries' heads."""
    d = attention.dim_heads
    share = q.shape[-1] // k.shape[-1]
    heads = []
    for h in range(q.shape[-1] // d):
        kv = slice(h // share * d, (h // share + 1) * d)
        heads.append(reference(q[:, h * d : (h + 1) * d], k[:, kv], v[:, kv], mask))
    return torch.cat(heads, dim=-1)


def test_self_attention_equals_its_definition() -> None:
    attention, x = build(), torch.randn(2, 5, 12)
    q, k, v = attention.to_qkv(x).chunk(3, dim=-1)
    expected = torch.stack([attention.to_out(by_heads(attention, q[i], k[i], v[i])) for i in range(2)])
    torch.testing.assert_close(attention(x), expected)


def test_causal_attention_ignores_the_future() -> None:
    attention, x = build(causal=True), torch.randn(1, 6, 12)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(attention(x)[:, :4], attention(changed)[:, :4])
    assert not torch.allclose(attention(x)[:, 4:], attention(changed)[:, 4:])


def test_options_override_the_transformers_causal() -> None:
    assert build(causal=True, options=AttentionOptions(causal=False)).causal is False
    assert build(causal=False, options=AttentionOptions(causal=True)).causal is True


def test_narrow_context_shares_its_heads() -> None:
    attention, x, context = build(dim_context=4), torch.randn(1, 5, 12), torch.randn(1, 3, 4)
    q = attention.to_q(x)[0]
    k, v = attention.to_kv(context)[0].chunk(2, dim=-1)
    expected = attention.to_out(by_heads(attention, q, k, v))
    torch.testing.assert_close(attention(x, context=context)[0], expected)


def test_differential_attention_subtracts_a_second_map() -> None:
    attention, x = build(options=AttentionOptions(differential=True)), torch.randn(1, 5, 12)
    q, k, v, q2, k2 = attention.to_qkv(x)[0].chunk(5, dim=-1)
    out = by_heads(attention, q, k, v) - by_heads(attention, q2, k2, v)
    torch.testing.assert_close(attention(x)[0], attention.to_out(out))


def test_differential_cross_attention_orders_keys_before_values() -> None:
    options = AttentionOptions(differential=True)
    attention, x, context = (
        build(dim_context=12, options=options),
        torch.randn(1, 5, 12),
        torch.randn(1, 3, 12),
    )
    q, q2 = attention.to_q(x)[0].chunk(2, dim=-1)
    k, k2, v = attention.to_kv(context)[0].chunk(3, dim=-1)
    out = by_heads(attention, q, k, v) - by_heads(attention, q2, k2, v)
    torch.testing.assert_close(attention(x, context=context)[0], attention.to_out(out))


@pytest.mark.parametrize("qk_norm", ["l2", "ln", "rms", "dyt"])
def test_qk_norm_acts_on_each_head(qk_norm: str) -> None:
    attention, x = build(options=AttentionOptions(qk_norm=qk_norm)), torch.randn(1, 5, 12)
    q, k, v = attention.to_qkv(x)[0].chunk(3, dim=-1)
    q = attention.q_norm(q.unflatten(-1, (3, 4))).flatten(-2)
    k = attention.k_norm(k.unflatten(-1, (3, 4))).flatten(-2)
    torch.testing.assert_close(attention(x)[0], attention.to_out(by_heads(attention, q, k, v)))


def test_feat_scale_gains_act_on_mean_and_rest() -> None:
    plain, scaled = build(), build(options=AttentionOptions(feat_scale=True))
    scaled.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(scaled(x), plain(x))
    torch.nn.init.constant_(scaled.lambda_dc, 0.5)
    torch.nn.init.constant_(scaled.lambda_hf, -0.25)
    out = plain(x)
    mean = out.mean(1, keepdim=True)
    torch.testing.assert_close(scaled(x), out + 0.5 * mean - 0.25 * (out - mean))


@pytest.mark.parametrize("differential", [False, True])
def test_prepared_context_gives_the_same(differential: bool) -> None:
    options = AttentionOptions(qk_norm="ln", differential=differential)
    attention, x, context = (
        build(dim_context=12, options=options),
        torch.randn(2, 5, 12),
        torch.randn(2, 3, 12),
    )
    prepared = attention.project_context(context)
    torch.testing.assert_close(attention(x, kv=prepared), attention(x, context=context), rtol=0, atol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_masked_context_is_not_seen(causal: bool) -> None:
    attention, x, context = build(dim_context=12, causal=causal), torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    mask = torch.tensor([[True, True, False, False], [False, False, False, False]])
    out = attention(x, context=context, context_mask=mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:1], attention(x[:1], context=context[:1, :2]))
    if not causal:  # nothing to see means everything is seen
        torch.testing.assert_close(out[1:], attention(x[1:], context=context[1:]))


def test_rotation_makes_scores_depend_on_distance_alone() -> None:
    attention, rope = build(), RotaryEmbedding(4)
    x = torch.randn(1, 1, 12).expand(1, 6, 12).contiguous()
    out = attention(x, rotary=rope(6))
    # Equal tokens have equal values, so attention returns the same row whatever the weights are.
    torch.testing.assert_close(out, out[:, :1].expand_as(out))


def test_zero_init_starts_as_zero() -> None:
    attention = Attention(8, dim_heads=4)
    assert attention(torch.randn(1, 3, 8)).abs().max() == 0
    kept = Attention(8, dim_heads=4, options=AttentionOptions(zero_init_output=False))
    assert kept(torch.randn(1, 3, 8)).abs().max() > 0


def test_wrong_widths_name_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"attention width is 10.*head width = 4"):
        Attention(10, dim_heads=4)
    with pytest.raises(ValueError, match=r"context width is 6"):
        Attention(12, dim_heads=4, dim_context=6)
    with pytest.raises(ValueError, match=r"number of heads is 3.*context's heads = 2"):
        Attention(12, dim_heads=4, dim_context=8)
    with pytest.raises(ValueError, match=r"qk_norm is 'layer'; allowed are 'none', 'l2'"):
        Attention(12, dim_heads=4, options=AttentionOptions(qk_norm="layer"))  # type: ignore[arg-type]


def test_flash_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"stable-audio\[flash\]"):
        Attention(12, dim_heads=4, options=AttentionOptions(backend="flash"))


def test_flash_falls_back_without_casting(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 on a CPU is nothing that flash-attn can take: the result must equal sdpa's, in float32."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    flash, plain = build(options=AttentionOptions(backend="flash")), build()
    x = torch.randn(2, 5, 12)
    assert flash(x).dtype == torch.float32
    torch.testing.assert_close(flash(x), plain(x), rtol=0, atol=0)
