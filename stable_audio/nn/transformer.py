"""The transformer over continuous tokens. Parameter names are those of published checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stable_audio.nn.attention import KeyValues
from stable_audio.nn.block import TransformerBlock, TransformerOptions
from stable_audio.nn.checks import check_divides, check_positive
from stable_audio.nn.embeddings import LearnedPositions, SinusoidalPositions
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
        tokens = self._embed(x, prepend)
        rotary = self.rotary_pos_emb(tokens.shape[1]) if self.rotary_pos_emb is not None else None
        modulation = self.global_cond_embedder(global_) if hasattr(self, "global_cond_embedder") else None
        settings = {
            "context": context,
            "context_mask": context_mask,
            "rotary": rotary,
            "modulation": modulation,
        }
        states: list[Tensor] = []
        stop = len(self.layers) if exit_layer is None else exit_layer + 1
        for i, layer in enumerate(self.layers[:stop]):
            tokens = self._run(layer, tokens, {**settings, "kv": kvs[i] if kvs is not None else None})
            states = [*states, tokens] if keep else [tokens]
        return states

    def _embed(self, x: Tensor, prepend: Tensor | None) -> Tensor:
        tokens = self.project_in(x)
        before = [self.memory_tokens.expand(x.shape[0], -1, -1)] if self.num_memory_tokens else []
        before += [prepend.to(tokens.dtype)] if prepend is not None else []
        if before:
            tokens = torch.cat([*(b.to(tokens.dtype) for b in before), tokens], dim=1)
        return tokens if self.pos_emb is None else tokens + self.pos_emb(tokens)

    def _run(self, layer: nn.Module, tokens: Tensor, settings: dict[str, Any]) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, tokens, use_reentrant=False, **settings)
        return layer(tokens, **settings)


def _position_embedding(dim: int, options: TransformerOptions) -> nn.Module | None:
    if options.use_sinusoidal_emb:
        return SinusoidalPositions(dim)
    if options.use_abs_pos_emb:
        return LearnedPositions(dim, max_length=options.abs_pos_emb_max_length)
    return None
