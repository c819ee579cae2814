"""Transformer layers between the convolutions. Module names are the keys of published checkpoints."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from stable_audio.backbones.adp.layer_inputs import KeysValues, LayerInputs
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.fused import fused_attention

_GROUPS = 32


class _Output(nn.Module):
    """Merge heads and project to the features of the input."""

    def __init__(self, mid: int, features: int) -> None:
        super().__init__()
        self.to_out = nn.Linear(mid, features)

    def forward(self, y: Tensor) -> Tensor:
        return self.to_out(y.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """Multi-head attention of x (b n d) to a context (b l e), both normalised first.

    torch selects the kernel: flash attention on GPUs in half precision.
    """

    stacked_matrices = MappingProxyType({"to_kv": 2})

    def __init__(self, features: int, context_features: int, *, heads: int, head_features: int) -> None:
        super().__init__()
        self.heads = heads
        mid = heads * head_features
        self.norm = nn.LayerNorm(features)
        self.norm_context = nn.LayerNorm(context_features)
        self.to_q = nn.Linear(features, mid, bias=False)
        self.to_kv = nn.Linear(context_features, 2 * mid, bias=False)
        self.attention = _Output(mid, features)

    def keys_values(self, context: Tensor, mask: Tensor | None = None) -> KeysValues:
        """Keys and values of `context`. Masked tokens get zero keys and values instead of logits of minus
        infinity, so that they take part in the softmax, as in the published models.
        """
        k, v = self.to_kv(self.norm_context(context)).chunk(2, dim=-1)
        if mask is not None:
            weights = mask[:, :, None].to(k.dtype)
            k, v = k * weights, v * weights
        return k, v

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        q, k, v = (self._split(part) for part in (self.to_q(self.norm(x)), *keys_values))
        return self.attention(fused_attention(q, k, v))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossAttention(Attention):
    """Attention to conditioning tokens whose keys and values were computed beforehand.

    `index` is the position of this layer in `Context.keys_values`, which the U-Net sets.
    """

    index: int = 0

    def compute_context(self, x: Tensor, context: LayerInputs) -> Tensor:
        k, v = context.keys_values[self.index]
        if context.time_token is not None:
            k_time, v_time = self.keys_values(context.time_token)
            k, v = torch.cat([k, k_time], dim=1), torch.cat([v, v_time], dim=1)
        return self(x, (k, v))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention if there are tokens, feed-forward; all residual."""

    def __init__(
        self, features: int, *, heads: int, head_features: int, multiplier: int, token_features: int | None
    ) -> None:
        super().__init__()
        self.attention = Attention(features, features, heads=heads, head_features=head_features)
        self.cross_attention = (
            CrossAttention(features, token_features, heads=heads, head_features=head_features)
            if token_features
            else None
        )
        mid = features * multiplier
        self.feed_forward = nn.Sequential(nn.Linear(features, mid), nn.GELU(), nn.Linear(mid, features))

    def forward(self, x: Tensor, context: LayerInputs) -> Tensor:
        x = x + self.attention(x, self.attention.keys_values(x))
        if self.cross_attention is not None:
            x = x + self.cross_attention.compute_context(x, context)
        return x + self.feed_forward(x)


class Transformer(Checkpointed):
    """`layers` transformer blocks over n: (b c n) -> (b c n), without an outer residual."""

    def __init__(
        self,
        layers: int,
        channels: int,
        *,
        heads: int | None,
        head_features: int | None,
        multiplier: int,
        token_features: int | None,
    ) -> None:
        super().__init__()
        if channels % _GROUPS:
            raise ValueError(f"levels with attention need a multiple of {_GROUPS} channels, found {channels}")
        if heads is None:
            if head_features is None:
                raise ValueError("for attentions, give attention_heads or attention_features")
            heads = channels // head_features
        head_features = head_features or channels // heads
        self.to_in = nn.Sequential(
            nn.GroupNorm(_GROUPS, channels, eps=1e-6), nn.Conv1d(channels, channels, 1)
        )
        self.blocks = nn.ModuleList(
            TransformerBlock(
                channels,
                heads=heads,
                head_features=head_features,
                multiplier=multiplier,
                token_features=token_features,
            )
            for _ in range(layers)
        )
        # Index 0 is a change of layout, without weights, but part of the keys of checkpoints.
        self.to_out = nn.Sequential(nn.Identity(), nn.Conv1d(channels, channels, 1))

    def compute(self, x: Tensor, context: LayerInputs) -> Tensor:
        x = self.to_in(x).transpose(1, 2)
        for block in self.blocks:
            x = block(x, context)
        return self.to_out(x.transpose(1, 2))
