"""Attention over positions and to tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.unet.attention_options import AttentionBlockOptions
from stable_audio.backbones.unet.layers import ChannelRMSNorm
from stable_audio.nn.fused import fused_attention
from stable_audio.nn.rotary import RotaryTables, apply_rotary

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, (b l h d) each."""


@dataclass(frozen=True)
class Tokens:
    """Conditioning of attention layers, computed once per generation.

    Attributes:
        cross: keys and values per cross-attention layer.
        cross_mask: (b 1 1 l) bool or None.
        prepend: keys and values per self-attention layer that reads prepend tokens, with prepend_mask.
        vectors: (b l d), further tokens of cross-attention, which every layer projects at each call,
            because they may depend on t.
    """

    cross: tuple[KeysValues, ...] = ()
    cross_mask: Tensor | None = None
    prepend: tuple[KeysValues, ...] = ()
    prepend_mask: Tensor | None = None
    vectors: Tensor | None = None


class HeadNorm(nn.RMSNorm):
    """Root-mean-square norm of each head, in the dtype of its input, since autocast does not cast weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


def _linear(c_in: int, between: int, c_out: int, options: AttentionBlockOptions, bias: bool) -> nn.Module:
    """(... c_in) -> (... c_out): one linear layer, or two with `between` features in the middle."""
    if options.projections == 1:
        return nn.Linear(c_in, c_out, bias=bias)
    return nn.Sequential(nn.Linear(c_in, between, bias=bias), nn.Linear(between, c_out, bias=bias))


class Projection(nn.Module):
    """Features (b l e) -> keys and values (b l h d)."""

    def __init__(
        self, features: int, heads: int, head_dim: int, options: AttentionBlockOptions, bias: bool
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
    """Queries from x (b l c), keys and values from a context -> (b l c)."""

    def __init__(self, channels: int, features: int, options: AttentionBlockOptions, bias: str) -> None:
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
    """x attends to itself and to prepend tokens. `index` is its position in `Tokens.prepend`."""

    index: int = 0

    def __init__(self, channels: int, options: AttentionBlockOptions, bias: str, prepend_dim: int) -> None:
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
            k_tokens, v_tokens = tokens.prepend[self.index]
            k, v = torch.cat([k_tokens, k], dim=1), torch.cat([v_tokens, v], dim=1)
            if tokens.prepend_mask is not None:
                mask = F.pad(tokens.prepend_mask, (0, x.shape[1]), value=True)
        return self.attend(q, (k, v), mask)


class CrossAttention(Attention):
    """x attends to tokens. `index` is its position in `Tokens.cross`."""

    index: int = 0

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        mask = tokens.cross_mask
        if tokens.vectors is None:
            return self.attend(self.queries(x), tokens.cross[self.index], mask)
        k, v = self.keys_values(tokens.vectors)
        if tokens.cross:
            k_tokens, v_tokens = tokens.cross[self.index]
            k, v = torch.cat([k_tokens, k], dim=1), torch.cat([v_tokens, v], dim=1)
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
