"""Attention layers with norms and a feed-forward network around them, on (b c *n)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.unet.attention import (
    CrossAttention,
    SelfAttention,
    TokenGroupNorm,
    TokenRMSNorm,
    Tokens,
)
from stable_audio.backbones.unet.attention_options import AttentionBlockOptions
from stable_audio.backbones.unet.layers import merged, norm
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.rotary import RotaryEmbedding, RotaryTables


class FeedForward(nn.Module):
    """Linear, GELU (optionally gated), linear: (b l c) -> (b l c)."""

    def __init__(self, channels: int, multiplier: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.to_hidden = nn.Linear(channels, channels * multiplier * (2 if gated else 1))
        self.to_out = nn.Linear(channels * multiplier, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.to_hidden(x)
        if self.gated:
            value, gate = h.chunk(2, dim=-1)
            return self.to_out(value * F.gelu(gate))
        return self.to_out(F.gelu(h))


class AttentionLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each optional, pre-normalised and residual."""

    def __init__(
        self,
        channels: int,
        options: AttentionBlockOptions,
        *,
        self_attention: bool,
        cross_dim: int,
        prepend_dim: int,
        norm_kind: str,
        normalized: bool,
    ) -> None:
        super().__init__()
        self.normalized = normalized
        transformer = options.block == "transformer"
        bias = "out" if transformer else options.bias
        groups = options.group_count(channels, norm_kind)

        def token_norm() -> nn.Module:
            if norm_kind == "rms":
                return TokenRMSNorm(channels)
            return nn.LayerNorm(channels) if transformer else TokenGroupNorm(groups, channels)

        self.self_norm = token_norm() if self_attention else None
        self.self_attention = SelfAttention(channels, options, bias, prepend_dim) if self_attention else None
        self.cross_norm = token_norm() if cross_dim else None
        self.cross_attention = CrossAttention(channels, cross_dim, options, bias) if cross_dim else None
        multiplier = options.feed_forward
        self.feed_norm = token_norm() if multiplier else None
        self.feed_forward = FeedForward(channels, multiplier, options.geglu) if multiplier else None

    def forward(self, x: Tensor, tokens: Tokens, rotary: RotaryTables | None) -> Tensor:
        if self.self_attention is not None and self.self_norm is not None:
            x = merged(x, self.self_attention(self.self_norm(x), tokens, rotary), self.normalized)
        if self.cross_attention is not None and self.cross_norm is not None:
            x = merged(x, self.cross_attention(self.cross_norm(x), tokens), self.normalized)
        if self.feed_forward is not None and self.feed_norm is not None:
            x = merged(x, self.feed_forward(self.feed_norm(x)), self.normalized)
        return x


class AttentionBlock(Checkpointed):
    """Attention layers over the positions of x: (b c *n) -> (b c *n)."""

    def __init__(
        self, dims: int, channels: int, options: AttentionBlockOptions, *, norm_kind: str, **layer: int | bool
    ) -> None:
        super().__init__()
        transformer = options.block == "transformer"
        _, head_dim = options.sizes(channels)
        self.rotary = _Axial(head_dim, dims) if options.rope else None
        self.to_in = self.to_out = None
        if transformer:
            groups = options.group_count(channels, norm_kind)
            self.norm = norm(norm_kind, groups, channels, eps=1e-6)
            self.to_in = nn.Linear(channels, channels)
            self.to_out = nn.Linear(channels, channels)
        count = options.depth if transformer else 1
        self.layers = nn.ModuleList(
            AttentionLayer(channels, options, norm_kind=norm_kind, **layer)  # type: ignore[arg-type]
            for _ in range(count)
        )

    def compute(self, x: Tensor, tokens: Tokens) -> Tensor:
        h = x if self.to_in is None else self.norm(x)
        h = h.flatten(2).transpose(1, 2)
        h = h if self.to_in is None else self.to_in(h)
        rotary = None if self.rotary is None else self.rotary.tables(x.shape[2:])
        for layer in self.layers:
            h = layer(h, tokens, rotary)
        h = h if self.to_out is None else self.to_out(h)
        h = h.transpose(1, 2).reshape(x.shape)
        return h if self.to_out is None else x + h


class _Axial(nn.Module):
    """Rotary tables for one or two axes: each axis rotates its share of the channel pairs."""

    def __init__(self, head_dim: int, dims: int) -> None:
        super().__init__()
        if head_dim // dims < 2:
            raise ValueError(f"rope needs heads of at least {2 * dims} features, found {head_dim}")
        self.embedding = RotaryEmbedding(head_dim // dims)

    def tables(self, shape: torch.Size) -> RotaryTables:
        parts = []
        for axis, size in enumerate(shape):
            for table in self.embedding(size):
                view = [1] * len(shape) + [table.shape[-1]]
                view[axis] = size
                parts.append(table.view(view).expand(*shape, -1).reshape(-1, table.shape[-1]))
        return RotaryTables(torch.cat(parts[0::2], dim=-1), torch.cat(parts[1::2], dim=-1))
