"""The transformer over continuous tokens. Parameter names are those of published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stable_audio.nn.attention import KeyValues
from stable_audio.nn.block import TransformerBlock, TransformerOptions, rotary_tables
from stable_audio.nn.checks import check_divides, check_positive
from stable_audio.nn.embeddings import LearnedPositions, SinusoidalPositions
from stable_audio.nn.packed import PackedRow
from stable_audio.nn.rotary import RotaryEmbedding, rotary_dim

__all__ = ["ContinuousTransformer", "TransformerBlock", "TransformerOptions"]


class ContinuousTransformer(nn.Module):
    """Transformer blocks between two linear layers.

    Args:
        dim_in, dim_out: features of the tokens that go in and come out.
        dim: features inside. depth: blocks. num_heads: heads of self-attention.
        dim_context: features of the cross-attention context; None for no cross-attention.
        modulated: adaptive layer norm from a global vector of `dim` features.
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
        modulated: bool = False,
        options: TransformerOptions = TransformerOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        check_positive(depth=depth, num_heads=num_heads, embed_dim=dim)
        check_divides("num_heads", num_heads, "embed_dim", dim)
        dim_heads = dim // num_heads
        self.gradient_checkpointing = False
        self.project_in = nn.Linear(dim_in, dim, bias=False)
        self.project_out = nn.Linear(dim, dim_out, bias=False)
        self.rotary_pos_emb = RotaryEmbedding(rotary_dim(dim_heads)) if options.rotary_pos_emb else None
        self.packing_obstacles = _packing_obstacles(options)
        self.num_memory_tokens = options.num_memory_tokens
        if options.num_memory_tokens > 0:
            self.memory_tokens = nn.Parameter(torch.randn(options.num_memory_tokens, dim))
        self.pos_emb = _position_embedding(dim, options)
        if modulated:
            self.global_cond_embedder = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 6 * dim))
        last = depth - 1 if options.final_cross_attn_ix < 0 else options.final_cross_attn_ix
        self.layers = nn.ModuleList(
            TransformerBlock(
                dim,
                dim_heads=dim_heads,
                dim_context=dim_context if i <= last else None,
                modulated=modulated,
                options=options,
            )
            for i in range(depth)
        )

    def prepare_context(self, context: Tensor) -> tuple[KeyValues | None, ...]:
        """Keys and values of every layer's cross-attention for a context (b m d)."""
        blocks: list[Any] = list(self.layers)
        return tuple(b.cross_attn and b.cross_attn.project_context(context) for b in blocks)

    def forward(
        self,
        x: Tensor,
        *,
        context: Tensor | None = None,
        kvs: tuple[KeyValues | None, ...] | None = None,
        context_mask: Tensor | None = None,
        prepend: Tensor | None = None,
        global_: Tensor | None = None,
    ) -> Tensor:
        """x (b n dim_in) -> (b n dim_out); prepended and memory tokens are taken off again.

        Args:
            context: (b m d) for cross-attention, or `kvs` from `prepare_context`.
            context_mask: (b m) bool, the tokens that cross-attention sees; None for all.
            prepend: tokens (b l dim) that go before x.
            global_: (b dim), for a modulated transformer.
        """
        hidden = self.hidden_states(
            x,
            context=context,
            kvs=kvs,
            context_mask=context_mask,
            prepend=prepend,
            global_=global_,
            keep=False,
        )
        return self.project_out(hidden[-1][:, -x.shape[1] :])

    def forward_packed(
        self,
        x: Tensor,
        lengths: Sequence[int],
        *,
        context: Tensor | None = None,
        kvs: tuple[KeyValues | None, ...] | None = None,
        context_mask: Tensor | None = None,
        prepend: Tensor | None = None,
        global_: Tensor | None = None,
    ) -> Tensor:
        """x (b n dim_in), of which the first lengths[i] tokens of item i are real -> (b n dim_out).

        The real tokens of all items go through the layers as one row, each item as `forward` would treat it
        alone without padding. Padding takes no part, and comes out as zeros. The other arguments are those
        of `forward`, with one item per clip.

        Raises:
            ValueError: the transformer has options that look across the borders of clips.
        """
        if self.packing_obstacles:
            raise ValueError(f"clips cannot share a row with {', '.join(self.packing_obstacles)}")
        row = PackedRow.of(
            lengths,
            padded=x.shape[1],
            memory=self.num_memory_tokens,
            prepended=0 if prepend is None else prepend.shape[1],
            device=x.device,
        )
        tokens = self._embed_packed(x, prepend, row)
        settings = {
            "context": context,
            "context_mask": context_mask,
            "modulation": self.global_cond_embedder(global_)
            if hasattr(self, "global_cond_embedder")
            else None,
            "packing": row.packing,
        }
        states = self._run_all(tokens, settings, kvs=kvs, stop=len(self.layers), keep=False)
        out = self.project_out(states[-1][0].index_select(0, row.out))
        padded = out.new_zeros(x.shape[0] * x.shape[1], out.shape[-1])
        return padded.index_copy(0, row.real, out).unflatten(0, x.shape[:2])

    def hidden_states(
        self,
        x: Tensor,
        *,
        context: Tensor | None = None,
        kvs: tuple[KeyValues | None, ...] | None = None,
        context_mask: Tensor | None = None,
        prepend: Tensor | None = None,
        global_: Tensor | None = None,
        exit_layer: int | None = None,
        keep: bool = True,
    ) -> list[Tensor]:
        """Outputs (b memory + l + n, dim) of the layers 0 .. exit_layer, or of the last one if not `keep`."""
        modulation = self.global_cond_embedder(global_) if hasattr(self, "global_cond_embedder") else None
        settings = {
            "context": context,
            "context_mask": context_mask,
            "modulation": modulation,
        }
        stop = len(self.layers) if exit_layer is None else exit_layer + 1
        return self._run_all(self._embed(x, prepend), settings, kvs=kvs, stop=stop, keep=keep)

    def _run_all(
        self,
        tokens: Tensor,
        settings: dict[str, Any],
        *,
        kvs: tuple[KeyValues | None, ...] | None,
        stop: int,
        keep: bool,
    ) -> list[Tensor]:
        rope, packing = self.rotary_pos_emb, settings.get("packing")
        rotary = rotary_tables(rope, tokens.shape[1], packing) if rope is not None else None
        states: list[Tensor] = []
        for i, layer in enumerate(self.layers[:stop]):
            kv = kvs[i] if kvs is not None else None
            tokens = self._run(layer, tokens, {**settings, "rotary": rotary, "kv": kv})
            states = [*states, tokens] if keep else [tokens]
        return states

    def _embed(self, x: Tensor, prepend: Tensor | None) -> Tensor:
        tokens = self.project_in(x)
        before = [self.memory_tokens.expand(x.shape[0], -1, -1)] if self.num_memory_tokens else []
        before += [prepend.to(tokens.dtype)] if prepend is not None else []
        if before:
            tokens = torch.cat([*(b.to(tokens.dtype) for b in before), tokens], dim=1)
        return tokens if self.pos_emb is None else tokens + self.pos_emb(tokens)

    def _embed_packed(self, x: Tensor, prepend: Tensor | None, row: PackedRow) -> Tensor:
        tokens = self.project_in(x.flatten(0, 1).index_select(0, row.real))
        sources = [self.memory_tokens.to(tokens.dtype)] if self.num_memory_tokens else []
        sources += [prepend.to(tokens.dtype).flatten(0, 1)] if prepend is not None else []
        tokens = torch.cat([*sources, tokens]).index_select(0, row.order).unsqueeze(0)
        if self.pos_emb is None:
            return tokens
        longest = tokens.new_empty(1, max(row.packing.lengths), 0)
        return tokens + self.pos_emb(longest).index_select(0, row.packing.position)

    def _run(self, layer: nn.Module, tokens: Tensor, settings: dict[str, Any]) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, tokens, use_reentrant=False, **settings)
        return layer(tokens, **settings)


def _packing_obstacles(options: TransformerOptions) -> tuple[str, ...]:
    """The options that would mix clips which share a row: convolutions over tokens."""
    return tuple(
        name
        for name, chosen in (("conformer", options.conformer), ("ff_kwargs.use_conv", options.ff.use_conv))
        if chosen
    )


def _position_embedding(dim: int, options: TransformerOptions) -> nn.Module | None:
    if options.use_sinusoidal_emb:
        return SinusoidalPositions(dim)
    if options.use_abs_pos_emb:
        return LearnedPositions(
            dim, max_length=options.abs_pos_emb_max_length, memory=options.num_memory_tokens
        )
    return None
