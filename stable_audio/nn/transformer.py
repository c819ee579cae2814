"""The transformer over continuous tokens. Parameter names are those of published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.attention import KeyValues
from stable_audio.nn.block import BlockInputs, TransformerBlock, TransformerOptions
from stable_audio.nn.checks import check_divides, check_positive
from stable_audio.nn.embeddings import LearnedPositions, SinusoidalPositions
from stable_audio.nn.local import LocalTokens, LocalWidths
from stable_audio.nn.packed import PackedRow
from stable_audio.nn.rotary import RotaryEmbedding, rotary_dim

__all__ = ["ContinuousTransformer", "TransformerBlock", "TransformerInputs", "TransformerOptions"]


@dataclass(frozen=True)
class TransformerInputs:
    """The inputs of a transformer besides x.

    Attributes:
        context: (b m d) for cross-attention.
        kvs: keys and values of each block's cross-attention, from `prepare_context`, instead of `context`.
        context_mask: (b m) bool, the tokens visible to cross-attention; None for all.
        prepend: tokens (b l dim) that go before x.
        global_cond: (b dim), for a modulated transformer.
        local: conditioning of the tokens of x.
        padding_mask: (b n) bool, False = padding in x; None = no padding.
    """

    context: Tensor | None = None
    kvs: tuple[KeyValues | None, ...] | None = None
    context_mask: Tensor | None = None
    prepend: Tensor | None = None
    global_cond: Tensor | None = None
    local: LocalTokens | None = None
    padding_mask: Tensor | None = None


_NOTHING = TransformerInputs()


class ContinuousTransformer(nn.Module):
    """Transformer blocks between two linear layers.

    Args:
        dim_in: features of the input tokens.
        dim_out: features of the output tokens.
        dim: features of the tokens inside.
        depth: number of blocks.
        num_heads: heads of self-attention.
        dim_context: features of the cross-attention context; None for no cross-attention.
        final_cross_attn_ix: last block with cross-attention; -1 for all.
        modulated: adaptive layer norm from a global vector of `dim` features.
        local: widths of the conditioning that is added to single tokens.
        options: options of the blocks and the embeddings.
    """

    def __init__(
        self,
        *,
        dim_in: int,
        dim_out: int,
        dim: int,
        depth: int,
        num_heads: int,
        dim_context: int | None = None,
        final_cross_attn_ix: int = -1,
        modulated: bool = False,
        local: LocalWidths = LocalWidths(),  # noqa: B008 (frozen)
        options: TransformerOptions = TransformerOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        check_positive(depth=depth, num_heads=num_heads, embed_dim=dim)
        check_divides("num_heads", num_heads, "embed_dim", dim)
        dim_heads = dim // num_heads
        self.project_in = nn.Linear(dim_in, dim, bias=False)
        self.project_out = nn.Linear(dim, dim_out, bias=False)
        self.rotary_pos_emb = RotaryEmbedding(rotary_dim(dim_heads)) if options.rotary_pos_emb else None
        self.packing_obstacles = _packing_obstacles(options)
        self.num_memory_tokens = options.num_memory_tokens
        self.memory_tokens = _memory_tokens(dim, options)
        self.pos_emb = _position_embedding(dim, options)
        self.global_cond_embedder = _modulation(dim) if modulated else None
        last = depth - 1 if final_cross_attn_ix < 0 else final_cross_attn_ix
        self.layers = nn.ModuleList(
            TransformerBlock(
                dim,
                dim_heads=dim_heads,
                dim_context=dim_context if i <= last else None,
                modulated=modulated,
                local=local,
                options=options,
            )
            for i in range(depth)
        )

    def prepare_context(self, context: Tensor) -> tuple[KeyValues | None, ...]:
        """Keys and values of every block's cross-attention for a context (b m d)."""
        blocks: list[Any] = list(self.layers)
        return tuple(block.project_context(context) for block in blocks)

    def forward(self, x: Tensor, inputs: TransformerInputs = _NOTHING) -> Tensor:
        """x (b n dim_in) -> (b n dim_out); prepended and memory tokens are removed again."""
        tokens = self._embed(x, inputs.prepend)
        shared = self._shared(inputs, tokens.shape[1])
        for layer, kv in zip(self.layers, self._kvs(inputs)):
            tokens = layer(tokens, shared, kv)
        return self.project_out(tokens[:, -x.shape[1] :])

    def hidden_states(
        self, x: Tensor, inputs: TransformerInputs = _NOTHING, *, exit_layer: int | None = None
    ) -> list[Tensor]:
        """Outputs (b memory + l + n, dim) of the blocks 0 .. exit_layer; None runs all."""
        stop = len(self.layers) if exit_layer is None else exit_layer + 1
        states = [self._embed(x, inputs.prepend)]
        shared = self._shared(inputs, states[0].shape[1])
        for layer, kv in zip(self.layers[:stop], self._kvs(inputs)):
            states.append(layer(states[-1], shared, kv))
        return states[1:]

    def forward_packed(
        self, x: Tensor, lengths: Sequence[int], inputs: TransformerInputs = _NOTHING
    ) -> Tensor:
        """x (b n dim_in), of which the first lengths[i] tokens of item i are real -> (b n dim_out).

        The real tokens of all items pass the blocks as one row, with the same result for each item as from
        `forward` without padding. Padding is not computed, and the output has zeros there. `inputs` has one
        item per clip, and no padding mask, since the lengths say all.

        Raises:
            ValueError: the transformer has options that mix neighbouring clips.
        """
        if self.packing_obstacles:
            raise ValueError(f"clips cannot share a row with {', '.join(self.packing_obstacles)}")
        row = PackedRow.of(
            lengths,
            padded=x.shape[1],
            memory=self.num_memory_tokens,
            prepended=0 if inputs.prepend is None else inputs.prepend.shape[1],
            device=x.device,
        )
        tokens = self._embed_packed(x, inputs.prepend, row)
        shared = self._shared(inputs, tokens.shape[1], row)
        for layer, kv in zip(self.layers, self._kvs(inputs)):
            tokens = layer(tokens, shared, kv)
        out = self.project_out(tokens[0].index_select(0, row.out))
        padded = out.new_zeros(x.shape[0] * x.shape[1], out.shape[-1])
        return padded.index_copy(0, row.real, out).unflatten(0, x.shape[:2])

    def _shared(self, inputs: TransformerInputs, length: int, row: PackedRow | None = None) -> BlockInputs:
        """The inputs that all blocks share, computed once for `length` tokens."""
        rope, embedder = self.rotary_pos_emb, self.global_cond_embedder
        packing, padding, local = None, inputs.padding_mask, inputs.local
        if row is not None:
            packing, padding = row.packing, None
            local = None if local is None else _packed_local(local, row)
        elif padding is not None:
            # Memory and prepended tokens are never padding.
            padding = F.pad(padding, (length - padding.shape[1], 0), value=True)
        return BlockInputs(
            context=inputs.context,
            context_mask=inputs.context_mask,
            rotary=None if rope is None else rope(length, packing),
            modulation=None if embedder is None else embedder(inputs.global_cond),
            local=local,
            padding_mask=padding,
            packing=packing,
        )

    def _kvs(self, inputs: TransformerInputs) -> Sequence[KeyValues | None]:
        return [None] * len(self.layers) if inputs.kvs is None else inputs.kvs

    def _embed(self, x: Tensor, prepend: Tensor | None) -> Tensor:
        tokens = self.project_in(x)
        prefix = [] if self.memory_tokens is None else [self.memory_tokens.expand(x.shape[0], -1, -1)]
        prefix += [prepend.to(tokens.dtype)] if prepend is not None else []
        if prefix:
            tokens = torch.cat([*(b.to(tokens.dtype) for b in prefix), tokens], dim=1)
        return tokens if self.pos_emb is None else tokens + self.pos_emb(tokens)

    def _embed_packed(self, x: Tensor, prepend: Tensor | None, row: PackedRow) -> Tensor:
        tokens = self.project_in(x.flatten(0, 1).index_select(0, row.real))
        sources = [] if self.memory_tokens is None else [self.memory_tokens.to(tokens.dtype)]
        sources += [prepend.to(tokens.dtype).flatten(0, 1)] if prepend is not None else []
        tokens = torch.cat([*sources, tokens]).index_select(0, row.order).unsqueeze(0)
        if self.pos_emb is None:
            return tokens
        longest = tokens.new_empty(1, max(row.packing.lengths), 0)
        return tokens + self.pos_emb(longest).index_select(0, row.packing.position)


def _packed_local(local: LocalTokens, row: PackedRow) -> LocalTokens:
    """The conditioning of the real tokens of all clips, in one row."""

    def real(x: Tensor) -> Tensor:
        return x.flatten(0, 1).index_select(0, row.real).unsqueeze(0)

    joined = None if local.joined is None else real(local.joined)
    by_id = {name: real(x) for name, x in local.by_id.items()}
    return replace(local, joined=joined, by_id=by_id, places=row.out)


def _packing_obstacles(options: TransformerOptions) -> tuple[str, ...]:
    """The options that would mix clips which share a row: convolutions over tokens."""
    return tuple(
        name
        for name, enabled in (
            ("conformer", options.conformer),
            ("ff_kwargs.use_conv", options.ff_kwargs.use_conv),
        )
        if enabled
    )


def _position_embedding(dim: int, options: TransformerOptions) -> nn.Module | None:
    if options.use_sinusoidal_emb:
        return SinusoidalPositions(dim)
    if options.use_abs_pos_emb:
        return LearnedPositions(
            dim, max_length=options.abs_pos_emb_max_length, memory=options.num_memory_tokens
        )
    return None


def _memory_tokens(dim: int, options: TransformerOptions) -> nn.Parameter | None:
    count = options.num_memory_tokens
    return nn.Parameter(torch.randn(count, dim)) if count > 0 else None


def _modulation(dim: int) -> nn.Module:
    """The global vector -> scale, shift and gate of self-attention and of the feed-forward network."""
    return nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 6 * dim))
