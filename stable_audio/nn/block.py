"""The transformer block and its options. Parameter names are those of published checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_audio.nn.attention import Attention, AttentionOptions, KeyValues
from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.feedforward import ConformerConv, FeedForward, FeedForwardOptions
from stable_audio.nn.local import LocalTokens, LocalWidths, local_embedding
from stable_audio.nn.norms import LayerNorm, NormOptions, NormType, build_norm
from stable_audio.nn.packed import Packing
from stable_audio.nn.rotary import RotaryEmbedding, RotaryTables


@dataclass(frozen=True, kw_only=True)
class TransformerOptions:
    """Options of the layers and of the embeddings around them.

    Attributes:
        rotary_pos_emb: rotary embedding shared by all layers; positions count memory and prepended tokens.
        causal: tokens attend only to earlier ones, in cross-attention too (aligned at the top left).
        zero_init_branch_outputs: every branch starts at zero, so that the network starts as the identity.
        conformer: a convolution module between cross-attention and feed-forward.
        use_sinusoidal_emb: add sinusoidal positions with a learned scale.
        use_abs_pos_emb: add learned positions, to memory tokens as well.
        abs_pos_emb_max_length: the longest sequence that they cover, without memory tokens.
        num_memory_tokens: learned tokens before all others.
        sliding_window: (left, right) tokens visible to self-attention; -1 is unlimited.
        attn_kwargs: options of self- and cross-attention.
        ff_kwargs: options of the feed-forward network.
        norm_kwargs: options of the norms.
        norm_type: norm before each branch.
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
    attn_kwargs: AttentionOptions = AttentionOptions()  # noqa: RUF009 (frozen)
    ff_kwargs: FeedForwardOptions = FeedForwardOptions()  # noqa: RUF009 (frozen)
    norm_kwargs: NormOptions = NormOptions()  # noqa: RUF009 (frozen)
    norm_type: NormType = "layer_norm"
    add_rope: bool = False
    layer_scale: bool = False


@dataclass(frozen=True)
class BlockInputs:
    """The inputs that all blocks of a transformer share.

    Attributes:
        context: (b m d') for cross-attention.
        context_mask: (b m) bool, the tokens visible to cross-attention; None for all.
        rotary: tables of a rotary embedding for all blocks; without them each uses its own, if any.
        modulation: (b 6 d), for modulated blocks.
        local: conditioning of single tokens.
        padding_mask: (b l) bool, False = padding, which self-attention treats as the options of attention
            say; None = no padding.
        packing: layout of several clips in one row of tokens; b then counts the clips in the other tensors.
    """

    context: Tensor | None = None
    context_mask: Tensor | None = None
    rotary: RotaryTables | None = None
    modulation: Tensor | None = None
    local: LocalTokens | None = None
    padding_mask: Tensor | None = None
    packing: Packing | None = None


_NOTHING = BlockInputs()


class LayerScale(nn.Module):
    """A learned gain per channel (Touvron et al., 2021)."""

    def __init__(self, dim: int, *, init: float = 1e-5) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TransformerBlock(Checkpointed):
    """Self-attention, cross-attention, convolution and feed-forward, each pre-norm with a residual.

    Args:
        dim: features of the tokens.
        dim_heads: features of each attention head.
        dim_context: features of the cross-attention context; None for no cross-attention.
        modulated: adaptive layer norm: self-attention and feed-forward are scaled, shifted and gated by
            a per-item vector (Peebles & Xie, 2023, with the gate sigmoid(1 - g)).
        local: widths of local conditioning, whose embeddings are added before the feed-forward.
    """

    def __init__(
        self,
        dim: int,
        *,
        dim_heads: int = 64,
        dim_context: int | None = None,
        modulated: bool = False,
        local: LocalWidths = LocalWidths(),  # noqa: B008 (frozen)
        options: TransformerOptions = TransformerOptions(),
    ) -> None:
        super().__init__()
        zero_init = options.zero_init_branch_outputs and not options.layer_scale
        self.pre_norm = build_norm(options.norm_type, dim, options.norm_kwargs)
        self.self_attn = self._attention(dim, dim_heads, None, zero_init, options)
        self.self_attn_scale = _layer_scale(dim, options)
        self.cross_attn: Attention | None = None
        if dim_context is not None:
            self.cross_attend_norm = build_norm(options.norm_type, dim, options.norm_kwargs)
            self.cross_attn = self._attention(dim, dim_heads, dim_context, zero_init, options)
            self.cross_attn_scale = _layer_scale(dim, options)
        self.conformer: ConformerConv | None = None
        if options.conformer:
            self.conformer = ConformerConv(
                dim, LayerNorm(dim, options.norm_kwargs), LayerNorm(dim, options.norm_kwargs)
            )
            self.conformer_scale = _layer_scale(dim, options)
        self.ff_norm = build_norm(options.norm_type, dim, options.norm_kwargs)
        self.ff = FeedForward(dim, options=options.ff_kwargs, zero_init_output=zero_init)
        self.ff_scale = _layer_scale(dim, options)
        self.rope = RotaryEmbedding(dim_heads // 2) if options.add_rope else None
        self.to_scale_shift_gate = nn.Parameter(torch.randn(6 * dim) / dim**0.5) if modulated else None
        self.to_local_embed = local_embedding(local.joined, dim) if local.joined else None
        self.modular_local_embeds: nn.ModuleDict | None = None
        if local.by_id:
            embeddings = {name: local_embedding(width, dim) for name, width in local.by_id.items()}
            self.modular_local_embeds = nn.ModuleDict(embeddings)

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
            options=options.attn_kwargs,
        )

    def compute(self, x: Tensor, inputs: BlockInputs = _NOTHING, kv: KeyValues | None = None) -> Tensor:
        """(b n d) -> (b n d).

        Args:
            inputs: the inputs that all blocks share.
            kv: keys and values of this block's cross-attention, instead of `inputs.context`.
        """
        packing, rotary = inputs.packing, inputs.rotary
        if rotary is None and self.rope is not None:
            rotary = self.rope(x.shape[1], packing)
        attn, ff = self._modulation(inputs)
        branch = self.self_attn(
            _modulate(self.pre_norm(x), attn),
            rotary=rotary,
            padding_mask=inputs.padding_mask,
            packing=packing,
        )
        x = _add_gated(x, self.self_attn_scale(branch), attn)
        if self.cross_attn is not None and (inputs.context is not None or kv is not None):
            branch = self.cross_attn(
                self.cross_attend_norm(x),
                context=inputs.context,
                kv=kv,
                context_mask=inputs.context_mask,
                packing=packing,
            )
            x = x + self.cross_attn_scale(branch)
        if self.conformer is not None:
            x = x + self.conformer_scale(self.conformer(x))
        if inputs.local is not None:
            x = self._with_local(x, inputs.local)
        return _add_gated(x, self.ff_scale(self.ff(_modulate(self.ff_norm(x), ff))), ff)

    def project_context(self, context: Tensor) -> KeyValues | None:
        """Keys and values of this block's cross-attention for a context (b m d); None without it."""
        return None if self.cross_attn is None else self.cross_attn.project_context(context)

    def _with_local(self, x: Tensor, local: LocalTokens) -> Tensor:
        if self.to_local_embed is not None and local.joined is not None:
            x = local.added_to(x, self.to_local_embed(local.joined))
        for name, embedding in (self.modular_local_embeds or {}).items():
            if name in local.by_id:
                x = local.added_to(x, embedding(local.by_id[name]))
        return x

    def _modulation(self, inputs: BlockInputs) -> tuple[_Modulation | None, _Modulation | None]:
        if self.to_scale_shift_gate is None or inputs.modulation is None:
            return None, None
        chunks = (self.to_scale_shift_gate + inputs.modulation).unsqueeze(1).chunk(6, dim=-1)
        if inputs.packing is not None:
            chunks = tuple(inputs.packing.per_token(c) for c in chunks)
        return chunks[:3], chunks[3:]


_Modulation = tuple[Tensor, ...]
"""scale, shift, gate; each (b 1 d), or (1 l d) in a packed row."""


def _modulate(x: Tensor, modulation: _Modulation | None) -> Tensor:
    return x if modulation is None else _add_product(modulation[1], x, 1 + modulation[0])


def _add_gated(x: Tensor, branch: Tensor, modulation: _Modulation | None) -> Tensor:
    return x + branch if modulation is None else _add_product(x, branch, torch.sigmoid(1 - modulation[2]))


def _add_product(x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
    """x + y factor; in half precision by one operation, which rounds once."""
    if x.dtype == y.dtype == factor.dtype and x.dtype in (torch.bfloat16, torch.float16):
        return torch.addcmul(x, y, factor)
    return x + y * factor


def _layer_scale(dim: int, options: TransformerOptions) -> nn.Module:
    return LayerScale(dim) if options.layer_scale else nn.Identity()
