"""The parts of the levels of the U-Net: residual blocks, attention blocks, stages of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from stable_audio.backbones.unet.attention import Tokens
from stable_audio.backbones.unet.attention_block import AttentionBlock
from stable_audio.backbones.unet.blocks import BlockVector, ResBlock
from stable_audio.backbones.unet.options import AttentionPlaces, BlockOptions, LevelOptions


@dataclass(frozen=True)
class LevelInputs:
    """Inputs of the blocks besides x.

    Attributes:
        time: first vector (b e) of residual blocks, that of t, or None.
        global_vector: second vector (b e) of residual blocks, or None.
        tokens: tokens of the attention layers.
    """

    time: Tensor | None
    global_vector: Tensor | None
    tokens: Tokens


class Stage(nn.Module):
    """A residual block, followed by attention if the level has it."""

    def __init__(self, resnet: ResBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.resnet, self.attention = resnet, attention

    def forward(self, x: Tensor, context: LevelInputs) -> Tensor:
        x = self.resnet(x, context.time, context.global_vector)
        return x if self.attention is None else self.attention(x, context.tokens)


@dataclass(frozen=True)
class LevelBuilder:
    """All that is needed to build the levels.

    Attributes:
        layout: the levels.
        block: the residual blocks.
        places: the attention blocks.
        self_attention: per level, whether it has self-attention.
        cross_attention: per level, whether it has cross-attention.
        cross_dim: width of the tokens of cross-attention.
        prepend_dim: width of the tokens of self-attention besides the positions.
        vectors: the two vectors of residual blocks.
    """

    layout: LevelOptions
    block: BlockOptions
    places: AttentionPlaces
    self_attention: Sequence[bool]
    cross_attention: Sequence[bool]
    cross_dim: int
    prepend_dim: int
    vectors: tuple[BlockVector, BlockVector]

    def resnet(self, c_in: int, c_out: int) -> ResBlock:
        """A residual block."""
        first, second = self.vectors
        return ResBlock(self.layout.dims, c_in, c_out, options=self.block, first=first, second=second)

    def stages(self, level: int, ins: Sequence[int], outs: Sequence[int]) -> nn.ModuleList:
        """Residual blocks of a level, with attention after each or after the last."""
        self_attention, cross_attention = self.self_attention[level], self.cross_attention[level]
        every, last = self.places.attention_every == "block", len(ins) - 1
        return nn.ModuleList(
            Stage(
                self.resnet(i, o),
                self._attention(o, self_attention, cross_attention) if every or n == last else None,
            )
            for n, (i, o) in enumerate(zip(ins, outs))
        )

    def middle(self) -> nn.ModuleList:
        """Two residual blocks at the lowest rate, between them attention of all kinds that some level has."""
        if not self.layout.middle:
            return nn.ModuleList()
        width, attention = self.layout.widths[-1], None
        if self.layout.middle_attention:
            attention = self._attention(width, any(self.self_attention), any(self.cross_attention))
        first = Stage(self.resnet(width, width), attention)
        return nn.ModuleList([first, Stage(self.resnet(width, width), None)])

    def _attention(self, channels: int, self_attention: bool, cross_attention: bool) -> AttentionBlock | None:
        if not (self_attention or cross_attention):
            return None
        return AttentionBlock(
            self.layout.dims,
            channels,
            self.places.attention_options,
            self_attention=self_attention,
            cross_dim=self.cross_dim if cross_attention else 0,
            prepend_dim=self.prepend_dim,
            norm_kind=self.block.norm,
            normalized=self.block.normalized,
        )
