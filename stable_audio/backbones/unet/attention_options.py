"""Options of the attention blocks of the U-Net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AttentionBlockOptions:
    """Structure of the attention blocks.

    Attributes:
        heads: number of heads; 8 if neither this nor `head_dim` is set.
        head_dim: features of a head; if `heads` is set as well, both hold at every width.
        block: `plain`: GroupNorm, attention, residual; `transformer`: GroupNorm and 1x1 convolution around
            `depth` transformer layers with LayerNorm, as in latent diffusion.
        depth: transformer layers per block.
        groups: groups of the GroupNorm before attention; 1 = over all channels; 32 by default.
        projections: number of linear layers in each projection to queries, keys and values and of the
            output. 2: a 1x1 convolution outside of those of torch.nn.MultiheadAttention.
        bias: which projections have biases. Transformer layers have `out` only.
        feed_forward: width of the feed-forward layer after attention, in the level's channels; 0 = none.
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
