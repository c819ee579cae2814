"""Transformer blocks and the transformer around them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stable_audio.nn.block import BlockInputs
from stable_audio.nn.transformer import (
    ContinuousTransformer,
    TransformerBlock,
    TransformerInputs,
    TransformerOptions,
)


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Leave no parameter at zero, so that every path shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def build(
    depth: int = 2, dim_context: int | None = 8, modulated: bool = False, last: int = -1, **options: Any
) -> ContinuousTransformer:
    torch.manual_seed(0)
    transformer = ContinuousTransformer(
        dim_in=3,
        dim_out=2,
        dim=8,
        depth=depth,
        num_heads=2,
        dim_context=dim_context,
        modulated=modulated,
        final_cross_attn_ix=last,
        options=TransformerOptions(**options),
    )
    randomise(transformer)
    return transformer


def test_a_fresh_transformer_is_the_two_projections() -> None:
    transformer = ContinuousTransformer(dim_in=3, dim_out=2, dim=8, depth=3, num_heads=2)
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(transformer(x), transformer.project_out(transformer.project_in(x)))


def test_a_fresh_block_with_layer_scale_is_nearly_the_identity() -> None:
    block = TransformerBlock(8, dim_heads=4, options=TransformerOptions(layer_scale=True))
    x = torch.randn(1, 5, 8)
    assert 0 < (block(x) - x).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_modulation_is_its_formula_in_every_type(dtype: torch.dtype) -> None:
    """Peebles & Xie 2023, with the gate sigmoid(1 - g); float32 bit for bit."""
    torch.manual_seed(0)
    block = TransformerBlock(8, dim_heads=4, modulated=True)
    randomise(block)
    block.to(dtype)
    x, vector = torch.randn(2, 5, 8).to(dtype), torch.randn(2, 48).to(dtype)
    scale, shift, gate, ff_scale, ff_shift, ff_gate = (
        part.unsqueeze(1) for part in (block.to_scale_shift_gate + vector).chunk(6, dim=-1)
    )
    y = x + block.self_attn(block.pre_norm(x) * (1 + scale) + shift) * torch.sigmoid(1 - gate)
    y = y + block.ff(block.ff_norm(y) * (1 + ff_scale) + ff_shift) * torch.sigmoid(1 - ff_gate)
    found = block(x, BlockInputs(modulation=vector))
    assert found.dtype == dtype
    if dtype == torch.float32:
        assert torch.equal(found, y)
    torch.testing.assert_close(found, y, rtol=8 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_modulation_with_gate_at_minus_infinity_lets_all_through() -> None:
    """sigmoid(1 - gate) is one there; scale and shift zero leave the plain block."""
    plain = TransformerBlock(8, dim_heads=4)
    block = TransformerBlock(8, dim_heads=4, modulated=True)
    randomise(plain)
    block.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.zeros_(block.to_scale_shift_gate)
    modulation = torch.zeros(1, 6, 8)
    modulation[:, [2, 5]] = -1e4
    x = torch.randn(1, 5, 8)
    torch.testing.assert_close(block(x, BlockInputs(modulation=modulation.flatten(1))), plain(x))


def test_prepended_and_memory_tokens_matter_but_do_not_come_out() -> None:
    transformer, x = build(num_memory_tokens=3), torch.randn(2, 5, 3)
    prepend, context = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    out = transformer(x, TransformerInputs(context=context, prepend=prepend))
    assert out.shape == (2, 5, 2)
    assert not torch.allclose(out, transformer(x, TransformerInputs(context=context)))
    hidden = transformer.hidden_states(x, TransformerInputs(context=context, prepend=prepend))
    assert [h.shape for h in hidden] == [(2, 12, 8)] * 2


def test_exit_layer_stops_early() -> None:
    transformer, x = build(depth=3, dim_context=None), torch.randn(2, 5, 3)
    hidden = transformer.hidden_states(x)
    early = transformer.hidden_states(x, exit_layer=1)
    assert len(early) == 2
    torch.testing.assert_close(early[1], hidden[1])


def test_final_cross_attention_layer() -> None:
    transformer = build(depth=3, last=1)
    assert [layer.cross_attn is not None for layer in transformer.layers] == [True, True, False]
    assert transformer.prepare_context(torch.randn(1, 4, 8))[2] is None


def test_shared_rotary_goes_before_the_blocks_own() -> None:
    both, shared = build(add_rope=True), build()
    shared.load_state_dict(both.state_dict(), strict=False)
    x, context = torch.randn(1, 5, 3), torch.randn(1, 2, 8)
    torch.testing.assert_close(
        both(x, TransformerInputs(context=context)), shared(x, TransformerInputs(context=context))
    )
    own = build(add_rope=True, rotary_pos_emb=False)
    own.load_state_dict(both.state_dict(), strict=False)
    assert not torch.allclose(
        own(x, TransformerInputs(context=context)), both(x, TransformerInputs(context=context))
    )


@pytest.mark.parametrize("option", ["use_sinusoidal_emb", "use_abs_pos_emb", "rotary_pos_emb", "add_rope"])
def test_each_position_embedding_breaks_permutation_symmetry(option: str) -> None:
    x = torch.randn(1, 6, 3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    without = build(dim_context=None, rotary_pos_emb=False)
    torch.testing.assert_close(without(x)[:, order], without(x[:, order]), atol=1e-5, rtol=1e-5)
    with_positions = build(dim_context=None, **{"rotary_pos_emb": False, option: True})
    assert not torch.allclose(with_positions(x)[:, order], with_positions(x[:, order]), atol=1e-4)


def test_memory_tokens_have_rows_of_their_own_in_the_table_of_positions() -> None:
    """The table has abs_pos_emb_max_length + num_memory_tokens rows; memory tokens take the first."""
    transformer = build(dim_context=None, use_abs_pos_emb=True, abs_pos_emb_max_length=7, num_memory_tokens=3)
    table, memory = transformer.pos_emb.emb.weight, transformer.memory_tokens
    assert table.shape[0] == 10
    x, prepend = torch.randn(2, 5, 3), torch.randn(2, 2, table.shape[1])
    tokens = torch.cat([memory.expand(2, -1, -1), prepend, transformer.project_in(x)], dim=1)
    expected = tokens + table * table.shape[1] ** -0.5
    torch.testing.assert_close(transformer._embed(x, prepend), expected)
    assert transformer(x, TransformerInputs(prepend=prepend)).shape == (2, 5, 2)
    with pytest.raises(ValueError, match="sequence of 8 tokens, but abs_pos_emb_max_length is 7"):
        transformer(torch.randn(2, 6, 3), TransformerInputs(prepend=prepend))


def test_sliding_window_limits_the_reach_per_layer() -> None:
    transformer = build(depth=2, dim_context=None, sliding_window=(1, 1))
    x = torch.randn(1, 12, 3)
    changed = x.clone()
    changed[:, 6] += 1
    moved = (transformer(x) - transformer(changed)).abs().amax((0, 2)) > 1e-7
    assert moved.nonzero().flatten().tolist() == [4, 5, 6, 7, 8]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="embed_dim is 10; it must be a multiple of num_heads = 3"):
        ContinuousTransformer(dim_in=1, dim_out=1, dim=10, depth=1, num_heads=3)
    with pytest.raises(ValueError, match="depth is 0"):
        ContinuousTransformer(dim_in=1, dim_out=1, dim=10, depth=0, num_heads=2)
