"""The transformer over continuous tokens. Parameter names are those of published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.attention import KeyValues
from stable_audio.nn.block import BlockInputs, TransformerBlock, TransformerOptions
from stable_audio.nn.checks import check_divides, check_positive
from stable_audio.nn.copying import is_compiled
from stable_audio.nn.local import LocalWidths
from stable_audio.nn.packed import PackedRow
from stable_audio.nn.rotary import RotaryEmbedding, rotary_dim
from stable_audio.nn.row_kernels import available, row_kernel
from stable_audio.nn.transformer_inputs import TransformerInputs, in_order_of, packed_local
from stable_audio.nn.transformer_parts import (
    expect_other_rows,
    memory_tokens,
    modulation,
    packing_obstacles,
    position_embedding,
    row_needs,
)

__all__ = ["ContinuousTransformer", "TransformerBlock", "TransformerInputs", "TransformerOptions"]

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
        self.packing_obstacles = packing_obstacles(options)
        self.row_needs = row_needs(dim_heads, options)
        self.num_memory_tokens = options.num_memory_tokens
        self.memory_tokens = memory_tokens(dim, options)
        self.pos_emb = position_embedding(dim, options)
        self.global_cond_embedder = modulation(dim) if modulated else None
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

    def row(
        self,
        lengths: Sequence[int],
        *,
        padded: int,
        prepended: int,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool = False,
    ) -> PackedRow:
        """The row for `forward_packed` of clips of `lengths` real tokens out of `padded`.

        It is made of numbers on the host, outside of a compiled network.

        Args:
            prepended: tokens before each clip.
            dtype: type in which the attention computes.
            compiled: the network is compiled.

        Raises:
            ValueError: the transformer has options that mix neighbouring clips.
        """
        if self.packing_obstacles:
            raise ValueError(f"clips cannot share a row with {', '.join(self.packing_obstacles)}")
        need = replace(self.row_needs, device=device, dtype=dtype, compiled=compiled)
        return PackedRow.of(
            lengths,
            padded=padded,
            memory=self.num_memory_tokens,
            prepended=prepended,
            device=device,
            attention=row_kernel(need, available(device)).make,
            any_lengths=compiled,
        )

    def forward_packed(self, x: Tensor, row: PackedRow, inputs: TransformerInputs = _NOTHING) -> Tensor:
        """x (b n dim_in), whose real tokens `row` names -> (b n dim_out).

        The real tokens of all items pass the blocks as one row, with the same result for each item as from
        `forward` without padding. Padding is not computed, and the output has zeros there. `inputs` has one
        item per clip, and no padding mask, since the row says all.
        """
        inputs = in_order_of(row, inputs)
        tokens = self._embed_packed(x, inputs.prepend, row)
        shared = self._shared(inputs, tokens.shape[1], row)
        if not torch.compiler.is_compiling() and is_compiled(self.layers[0]):
            expect_other_rows(tokens, shared, self._kvs(inputs))
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
            local = None if local is None else packed_local(local, row)
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
        places = row.packing.places
        longest = tokens.new_empty(1, places.longest, 0)
        return tokens + self.pos_emb(longest).index_select(0, places.position)
