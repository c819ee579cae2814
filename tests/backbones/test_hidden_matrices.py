"""Every backbone says which of its weights are matrices between hidden features."""

from __future__ import annotations

import pytest
from torch import nn

from stable_audio.backbones import DiT
from stable_audio.nn.attention import Attention, AttentionOptions
from tests.backbones.test_contracts import ALL, build


@ALL
def test_every_backbone_names_its_hidden_matrices(name: str) -> None:
    backbone = build(name)
    matrices = backbone.hidden_matrices()
    names = {p: n for n, p in backbone.named_parameters()}
    assert matrices
    for weight, count in matrices.items():
        assert weight.ndim in (2, 3, 4), names[weight]
        assert weight.shape[0] % count == 0, names[weight]
    # What comes in and goes out is embedded by other weights.
    for weight in set(names) - set(matrices):
        weight.requires_grad_(False)
    assert set(backbone.hidden_matrices()) == set(matrices)
    next(iter(matrices)).requires_grad_(False)
    assert len(backbone.hidden_matrices()) == len(matrices) - 1


def test_those_of_a_dit_are_all_of_its_blocks() -> None:
    dit = DiT(io_channels=2, embed_dim=8, depth=2, num_heads=2, cond_token_dim=6, global_cond_dim=4)
    names = {p: n for n, p in dit.named_parameters()}
    counts = {names[p]: count for p, count in dit.hidden_matrices().items()}
    assert counts == {
        f"transformer.layers.{layer}.{name}.weight": count
        for layer in (0, 1)
        for name, count in {
            "self_attn.to_qkv": 3,
            "self_attn.to_out": 1,
            "cross_attn.to_q": 1,
            "cross_attn.to_kv": 2,
            "cross_attn.to_out": 1,
            "ff.ff.0.proj": 2,
            "ff.ff.2": 1,
        }.items()
    }


@pytest.mark.parametrize("differential", [True, False])
@pytest.mark.parametrize("dim_context", [None, 8])
def test_stacked_queries_keys_and_values_are_those_that_attention_splits(
    differential: bool, dim_context: int | None
) -> None:
    options = AttentionOptions(differential=differential)
    attention = Attention(8, dim_heads=4, dim_context=dim_context, options=options)
    layers = {name: layer for name, layer in attention.named_children() if isinstance(layer, nn.Linear)}
    for name, layer in layers.items():
        assert layer.out_features == 8 * attention.stacked_matrices.get(name, 1), name
