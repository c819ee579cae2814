"""Parts of the transformer that its options choose, and what these mean for clips that share a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stable_audio.nn.attention import KeyValues
from stable_audio.nn.block import BlockInputs, TransformerOptions
from stable_audio.nn.embeddings import LearnedPositions, SinusoidalPositions
from stable_audio.nn.packed import mark_dynamic
from stable_audio.nn.row_kernels import RowNeeds


def packing_obstacles(options: TransformerOptions) -> tuple[str, ...]:
    """The options that would mix clips which share a row: convolutions over tokens."""
    return tuple(
        name
        for name, enabled in (
            ("conformer", options.conformer),
            ("ff_kwargs.use_conv", options.ff_kwargs.use_conv),
        )
        if enabled
    )


def row_needs(dim_heads: int, options: TransformerOptions) -> RowNeeds:
    """What the self-attention of a row needs, but for the device and types of a call."""
    own = options.attn_kwargs
    return RowNeeds(
        device=torch.device("cpu"),
        dtype=torch.float32,
        dim_heads=dim_heads,
        causal=options.causal if own.causal is None else own.causal,
        window=options.sliding_window,
        prefers_flash=own.backend == "flash",
    )


def expect_other_rows(tokens: Tensor, shared: BlockInputs, kvs: Sequence[KeyValues | None]) -> None:
    """Let the compiler of a block expect rows of other clips and lengths in later calls.

    Args:
        tokens: the row (1 l d).
        shared: inputs of all blocks; the tensors of its `packing` are marked where they are made.
        kvs: keys and values of each block's cross-attention.
    """
    local = shared.local
    along_row = [] if local is None else [v for v in (local.joined, *local.by_id.values()) if v is not None]
    mark_dynamic([tokens, *along_row], dims=(1,))
    per_clip = [shared.context, shared.context_mask, shared.modulation]
    per_clip += [v for kv in kvs if kv is not None for v in (*kv.keys, kv.values)]
    mark_dynamic([v for v in (*per_clip, *(shared.rotary or ())) if v is not None], dims=(0,))


def position_embedding(dim: int, options: TransformerOptions) -> nn.Module | None:
    if options.use_sinusoidal_emb:
        return SinusoidalPositions(dim)
    if options.use_abs_pos_emb:
        return LearnedPositions(
            dim, max_length=options.abs_pos_emb_max_length, memory=options.num_memory_tokens
        )
    return None


def memory_tokens(dim: int, options: TransformerOptions) -> nn.Parameter | None:
    count = options.num_memory_tokens
    return nn.Parameter(torch.randn(count, dim)) if count > 0 else None


def modulation(dim: int) -> nn.Module:
    """The global vector -> scale, shift and gate of self-attention and of the feed-forward network."""
    return nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 6 * dim))
