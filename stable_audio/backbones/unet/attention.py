"""Attention over positions and to tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.unet.layers import ChannelRMSNorm, merged, norm
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.fused import fused_attention
from stable_audio.nn.rotary import RotaryEmbedding, RotaryTables, apply_rotary

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, (b l h d) each."""


@dataclass(frozen=True)
class AttentionOptions:
    """How attention blocks are made.

    Attributes:
        heads: number of heads; 8 when neither this nor `head_dim` is given.
        head_dim: features of a head; with `heads`, both are fixed, whatever the level's width.
        block: `plain`: GroupNorm, attention, residual; `transformer`: GroupNorm and 1x1 convolution around
            `depth` transformer layers with LayerNorm, as in latent diffusion.
        depth: transformer layers per block.
        groups: groups of the GroupNorm in front of attention; 1 = over all channels; 32 by default.
        projections: linear layers in each of the projections to queries, keys and values and from the
            output. 2: a 1x1 convolution outside of those of torch.nn.MultiheadAttention.
        bias: which projections have biases. Transformer layers have `out` only.
        feed_forward: width of the feed-forward layer behind attention, in the level's channels; 0 = none.
        geglu: gate the feed-forward layer (Shazeer, 2020).
        rope: rotary position embedding in self-attention, axial in two dimensions.
        qk_norm: root-mean-square normalisation of queries and keys per head.
    """

    heads: int | None = None
    head_dim: int | None = None
    block: Literal["plain", "transformer"] = "plain"
    depth: int = 1
    groups: int | None = None
    projections: Literal[1, 2] = 1
    bias: Literal["all", "qkv", "out", "none"] = "all"
    feed_forward: int = 0
    geglu: bool = False
    rope: bool = False
    qk_norm: bool = False

    def group_count(self, channels: int, norm_kind: str) -> int:
        """Groups of the norms at a level of this width."""
        if norm_kind == "rms":
            if self.groups is not None:
                raise ValueError(
                    f"norm 'rms' has no groups: leave out attention_options.groups {self.groups}"
                )
            return 1
        groups = 32 if self.groups is None else self.groups
        if channels % groups:
            raise ValueError(
                f"attention_options.groups {groups} must divide the channels of a level, {channels}"
            )
        return groups

    def sizes(self, channels: int) -> tuple[int, int]:
        """(heads, head_dim) at a level of this width."""
        if self.heads is None and self.head_dim is not None:
            if channels % self.head_dim:
                raise ValueError(f"head_dim {self.head_dim} must divide the channels of a level, {channels}")
            return channels // self.head_dim, self.head_dim
        heads = self.heads or 8
        if self.head_dim is None and channels % heads:
            raise ValueError(f"{heads} heads must divide the channels of a level, {channels}")
        return heads, self.head_dim or channels // heads


@dataclass(frozen=True)
class Tokens:
    """Conditioning of attention layers, computed once per generation.

    Attributes:
        cross: keys and values per cross-attention layer. cross_mask: (b 1 1 l) bool or None.
        prepend: keys and values per self-attention layer that reads prepend tokens, with prepend_mask.
        vectors: (b l d), further tokens of cross-attention, which every layer projects at each call since
            they may depend on t.
    """

    cross: tuple[KeysValues, ...] = ()
    cross_mask: Tensor | None = None
    prepend: tuple[KeysValues, ...] = ()
    prepend_mask: Tensor | None = None
    vectors: Tensor | None = None


class HeadNorm(nn.RMSNorm):
    """Root-mean-square norm of each head, in the dtype of its input (autocast leaves weights alone)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


def _linear(c_in: int, between: int, c_out: int, options: AttentionOptions, bias: bool) -> nn.Module:
    """(... c_in) -> (... c_out): one linear layer, or two in a row, `between` wide in the middle."""
    if options.projections == 1:
        return nn.Linear(c_in, c_out, bias=bias)
    return nn.Sequential(nn.Linear(c_in, between, bias=bias), nn.Linear(between, c_out, bias=bias))


class Projection(nn.Module):
    """Features (b l e) -> keys and values (b l h d)."""

    def __init__(
        self, features: int, heads: int, head_dim: int, options: AttentionOptions, bias: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_k = _linear(features, features, heads * head_dim, options, bias)
        self.to_v = _linear(features, features, heads * head_dim, options, bias)
        self.norm = HeadNorm(head_dim, eps=1e-6) if options.qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> KeysValues:
        k = self.to_k(x).unflatten(-1, (self.heads, -1))
        return self.norm(k), self.to_v(x).unflatten(-1, (self.heads, -1))


class Attention(nn.Module):
    """Queries from x (b l c), keys and values from elsewhere -> (b l c)."""

    def __init__(self, channels: int, features: int, options: AttentionOptions, bias: str) -> None:
        super().__init__()
        heads, head_dim = options.sizes(channels)
        self.heads, self.head_dim = heads, head_dim
        qkv = bias in ("all", "qkv")
        inner, out = heads * head_dim, bias in ("all", "out")
        self.to_q = _linear(channels, channels, inner, options, qkv)
        self.norm_q = HeadNorm(head_dim, eps=1e-6) if options.qk_norm else nn.Identity()
        self.keys_values = Projection(features, heads, head_dim, options, qkv)
        self.to_out = _linear(inner, channels, channels, options, out)

    def queries(self, x: Tensor) -> Tensor:
        return self.norm_q(self.to_q(x).unflatten(-1, (self.heads, -1)))

    def attend(self, q: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in (q, *keys_values))
        y = fused_attention(q, k, v, mask)
        return self.to_out(y.transpose(1, 2).flatten(2))


class SelfAttention(Attention):
    """x attends to itself and to prepend tokens. `index` is its place in `Tokens.prepend`."""

    index: int = 0

    def __init__(self, channels: int, options: AttentionOptions, bias: str, prepend_dim: int) -> None:
        super().__init__(channels, channels, options, bias)
        self.prepend = (
            Projection(prepend_dim, self.heads, self.head_dim, options, bias in ("all", "qkv"))
            if prepend_dim
            else None
        )

    def forward(self, x: Tensor, tokens: Tokens, rotary: RotaryTables | None) -> Tensor:
        q, (k, v) = self.queries(x), self.keys_values(x)
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        mask = None
        if tokens.prepend:
            k_more, v_more = tokens.prepend[self.index]
            k, v = torch.cat([k_more, k], dim=1), torch.cat([v_more, v], dim=1)
            if tokens.prepend_mask is not None:
                mask = F.pad(tokens.prepend_mask, (0, x.shape[1]), value=True)
        return self.attend(q, (k, v), mask)


class CrossAttention(Attention):
    """x attends to tokens. `index` is its place in `Tokens.cross`."""

    index: int = 0

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        mask = tokens.cross_mask
        if tokens.vectors is None:
            return self.attend(self.queries(x), tokens.cross[self.index], mask)
        k, v = self.keys_values(tokens.vectors)
        if tokens.cross:
            k_more, v_more = tokens.cross[self.index]
            k, v = torch.cat([k_more, k], dim=1), torch.cat([v_more, v], dim=1)
        if mask is not None:
            mask = F.pad(mask, (0, tokens.vectors.shape[1]), value=True)
        return self.attend(self.queries(x), (k, v), mask)


class TokenGroupNorm(nn.GroupNorm):
    """GroupNorm of (b l c) over positions and groups of channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class TokenRMSNorm(ChannelRMSNorm):
    """Root-mean-square norm of (b l c) over channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, GELU (gated if asked), linear: (b l c) -> (b l c)."""

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
    """Self-attention, cross-attention and feed-forward, each where asked for, pre-normalised, residual."""

    def __init__(
        self,
        channels: int,
        options: AttentionOptions,
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
        self, dims: int, channels: int, options: AttentionOptions, *, norm_kind: str, **layer: int | bool
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
    """Rotary tables for one or two axes: each axis turns its share of the channel pairs."""

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
