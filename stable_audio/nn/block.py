"""The transformer block and its options. Parameter names are those of published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stable_audio.nn.attention import Attention, AttentionOptions, KeyValues
from stable_audio.nn.feedforward import ConformerConv, FeedForward, FeedForwardOptions
from stable_audio.nn.norms import LayerNorm, NormOptions, NormType, build_norm
from stable_audio.nn.packed import Packing
from stable_audio.nn.rotary import RotaryEmbedding, RotaryTables


@dataclass(frozen=True)
class TransformerOptions:
    """What can be chosen about the layers and the embeddings around them.

    Attributes:
        rotary_pos_emb: rotary embedding shared by all layers; positions count memory and prepended tokens.
        causal: tokens see only earlier ones, in cross-attention too (aligned at the top left).
        zero_init_branch_outputs: every branch starts as zero, so that the network starts as the identity.
        conformer: a convolution module between cross-attention and feed-forward.
        use_sinusoidal_emb: add sinusoidal positions with a learned scale.
        use_abs_pos_emb, abs_pos_emb_max_length: add learned positions, to memory tokens as well, which do not
            count into the length.
        num_memory_tokens: learned tokens before all others.
        sliding_window: (left, right) tokens that self-attention sees; -1 is unlimited.
        final_cross_attn_ix: last layer with cross-attention; -1 for all.
        norm_type: norm before each branch. norms: its options.
        add_rope: each layer owns a rotary embedding of half the head, used when there is no shared one.
        layer_scale: a learned gain per channel on every branch, 1e-5 at first, instead of zero_init.
    """

    rotary_pos_emb: bool = True
    causal: bool = False
    zero_init_branch_outputs: bool = True
    conformer: bool = False
    use_sinusoidal_emb: bool = False
    use_abs_pos_emb: bool = False
    abs_pos_emb_max_length: int = 10000
    num_memory_tokens: int = 0
    sliding_window: tuple[int, int] | None = None
    final_cross_attn_ix: int = -1
    norm_type: NormType = "layer_norm"
    add_rope: bool = False
    layer_scale: bool = False
    attn: AttentionOptions = field(default_factory=AttentionOptions)
    ff: FeedForwardOptions = field(default_factory=FeedForwardOptions)
    norms: NormOptions = field(default_factory=NormOptions)


class LayerScale(nn.Module):
    """A learned gain per channel (Touvron et al., 2021)."""

    def __init__(self, dim: int, *, init: float = 1e-5) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, convolution and feed-forward, each pre-norm with a residual.

    Args:
        dim: features. dim_heads: features of a head.
        dim_context: features of the cross-attention context; None for no cross-attention.
        modulated: adaptive layer norm: self-attention and feed-forward are scaled, shifted and gated by
            a per-item vector (Peebles & Xie, 2023, with the gate sigmoid(1 - g)).
    """

    def __init__(
        self,
        dim: int,
        *,
        dim_heads: int = 64,
        dim_context: int | None = None,
        modulated: bool = False,
        options: TransformerOptions = TransformerOptions(),
    ) -> None:
        super().__init__()
        zero_init = options.zero_init_branch_outputs and not options.layer_scale
        self.pre_norm = build_norm(options.norm_type, dim, options.norms)
        self.self_attn = self._attention(dim, dim_heads, None, zero_init, options)
        self.self_attn_scale = _layer_scale(dim, options)
        self.cross_attn: Attention | None = None
        if dim_context is not None:
            self.cross_attend_norm = build_norm(options.norm_type, dim, options.norms)
            self.cross_attn = self._attention(dim, dim_heads, dim_context, zero_init, options)
            self.cross_attn_scale = _layer_scale(dim, options)
        self.conformer: ConformerConv | None = None
        if options.conformer:
            self.conformer = ConformerConv(dim, LayerNorm(dim, options.norms), LayerNorm(dim, options.norms))
            self.conformer_scale = _layer_scale(dim, options)
        self.ff_norm = build_norm(options.norm_type, dim, options.norms)
        self.ff = FeedForward(dim, options=options.ff, zero_init_output=zero_init)
        self.ff_scale = _layer_scale(dim, options)
        self.rope = RotaryEmbedding(dim_heads // 2) if options.add_rope else None
        self.to_scale_shift_gate = nn.Parameter(torch.randn(6 * dim) / dim**0.5) if modulated else None

    @staticmethod
    def _attention(
        dim: int, dim_heads: int, dim_context: int | None, zero_init: bool, options: TransformerOptions
    ) -> Attention:
        return Attention(
            dim,
            dim_heads=dim_heads,
            dim_context=dim_context,
            causal=options.causal,
            sliding_window=options.sliding_window if dim_context is None else None,
            zero_init_output=zero_init,
            options=options.attn,
        )

    def forward(
        self,
        x: Tensor,
        *,
        context: Tensor | None = None,
        kv: KeyValues | None = None,
        context_mask: Tensor | None = None,
        rotary: RotaryTables | None = None,
        modulation: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """(b n d) -> (b n d).

        Args:
            context: (b m d') for cross-attention, or `kv`, its keys and values computed before.
            context_mask: (b m) bool, the tokens that cross-attention sees; None for all.
            rotary: tables of a shared rotary embedding; without them the block's own is used, if any.
            modulation: (b 6 d), for a modulated block.
            packing: x is one row of several clips, and b counts the clips in the other tensors.
        """
        if rotary is None and self.rope is not None:
            rotary = rotary_tables(self.rope, x.shape[1], packing)
        attn, ff = self._modulation(modulation, packing)
        branch = self.self_attn(_modulate(self.pre_norm(x), attn), rotary=rotary, packing=packing)
        x = x + _gate(self.self_attn_scale(branch), attn)
        if self.cross_attn is not None and (context is not None or kv is not None):
            normed = self.cross_attend_norm(x)
            branch = self.cross_attn(
                normed, context=context, kv=kv, context_mask=context_mask, packing=packing
            )
            x = x + self.cross_attn_scale(branch)
        if self.conformer is not None:
            x = x + self.conformer_scale(self.conformer(x))
        return x + _gate(self.ff_scale(self.ff(_modulate(self.ff_norm(x), ff))), ff)

    def _modulation(
        self, modulation: Tensor | None, packing: Packing | None
    ) -> tuple[_Modulation | None, _Modulation | None]:
        if self.to_scale_shift_gate is None or modulation is None:
            return None, None
        chunks = (self.to_scale_shift_gate + modulation).unsqueeze(1).chunk(6, dim=-1)
        if packing is not None:
            chunks = tuple(packing.per_token(c) for c in chunks)
        return chunks[:3], chunks[3:]


_Modulation = tuple[Tensor, ...]
"""scale, shift, gate; each (b 1 d), or (1 l d) in a packed row."""


def _modulate(x: Tensor, modulation: _Modulation | None) -> Tensor:
    return x if modulation is None else x * (1 + modulation[0]) + modulation[1]


def _gate(branch: Tensor, modulation: _Modulation | None) -> Tensor:
    return branch if modulation is None else branch * torch.sigmoid(1 - modulation[2])


def rotary_tables(rope: RotaryEmbedding, length: int, packing: Packing | None) -> RotaryTables:
    """Tables for `length` tokens; in a packed row the positions start anew in every clip."""
    return rope(length) if packing is None else rope(max(packing.lengths)).at(packing.position)


def _layer_scale(dim: int, options: TransformerOptions) -> nn.Module:
    return LayerScale(dim) if options.layer_scale else nn.Identity()
