"""The U-Net itself: levels on the way down, the middle, levels on the way up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.backbones.unet.attention import (
    AttentionBlock,
    AttentionOptions,
    CrossAttention,
    SelfAttention,
    Tokens,
)
from stable_audio.backbones.unet.blocks import NormOut, ResBlock
from stable_audio.backbones.unet.layers import conv, downsample, merged, upsample

SkipMerge = Literal["concat", "add", "normalized_add"]


@dataclass(frozen=True)
class Context:
    """What blocks read besides x: the two vectors of residual blocks (b e), where there are any, tokens."""

    time: Tensor | None
    globals_: Tensor | None
    tokens: Tokens


@dataclass(frozen=True)
class Plan:
    """Everything that the levels are built from.

    Attributes:
        base: width behind the first convolution. widths: per level. blocks: residual blocks per level.
        factors: rate change between level i and i + 1.
        attention, cross_attention: per level, whether it has self- and cross-attention.
        resnet: (c_in, c_out) -> residual block.
        skips, skip_merge, up_width, attention_every: explained in `backbone`.
    """

    dims: int
    base: int
    widths: Sequence[int]
    blocks: Sequence[int]
    factors: Sequence[int]
    attention: Sequence[bool]
    cross_attention: Sequence[bool]
    attention_options: AttentionOptions
    attention_every: str
    cross_dim: int
    prepend_dim: int
    norm_kind: str
    normalized: bool
    skips: str
    skip_merge: SkipMerge
    up_width: str
    downsample: str
    downsample_kernel: int
    upsample: str
    upsample_kernel: int
    resnet: Callable[[int, int], ResBlock]

    @property
    def last(self) -> int:
        return len(self.widths) - 1

    def below(self, level: int) -> int:
        """Width of the next finer level."""
        return self.widths[level - 1] if level else self.base

    def attends(self, level: int, channels: int, *, here: bool = True) -> AttentionBlock | None:
        """The attention block of a level at this width, if it has one."""
        return self._attention(channels, self.attention[level], self.cross_attention[level]) if here else None

    def attends_middle(self) -> AttentionBlock | None:
        """The attention block at the lowest rate: of the kinds that any level has."""
        return self._attention(self.widths[-1], any(self.attention), any(self.cross_attention))

    def _attention(self, channels: int, own: bool, cross: bool) -> AttentionBlock | None:
        if not (own or cross):
            return None
        return AttentionBlock(
            self.dims,
            channels,
            self.attention_options,
            self_attention=own,
            cross_dim=self.cross_dim if cross else 0,
            prepend_dim=self.prepend_dim,
            norm_kind=self.norm_kind,
            normalized=self.normalized,
        )

    def stages(self, level: int, ins: Sequence[int], outs: Sequence[int]) -> nn.ModuleList:
        """Residual blocks of a level, with attention behind each or behind the last."""
        every = self.attention_every == "block"
        last = len(ins) - 1
        return nn.ModuleList(
            Stage(self.resnet(i, o), self.attends(level, o, here=every or n == last))
            for n, (i, o) in enumerate(zip(ins, outs))
        )


class Stage(nn.Module):
    """A residual block and, where the level has it, attention."""

    def __init__(self, resnet: ResBlock, attention: AttentionBlock | None) -> None:
        super().__init__()
        self.resnet, self.attention = resnet, attention

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.resnet(x, context.time, context.globals_)
        return x if self.attention is None else self.attention(x, context.tokens)


class Down(nn.Module):
    """One level on the way down; puts its skips on the stack."""

    def __init__(self, plan: Plan, level: int) -> None:
        super().__init__()
        width = plan.widths[level]
        ins = [plan.below(level)] + [width] * (plan.blocks[level] - 1)
        self.stages = plan.stages(level, ins, [width] * len(ins))
        self.every = plan.skips == "block"
        self.keeps_downsampled = self.every and plan.skip_merge == "concat"
        self.downsample = None
        if level < plan.last:
            self.downsample = downsample(
                plan.dims,
                width,
                width,
                how=plan.downsample,
                kernel=plan.downsample_kernel,
                factor=plan.factors[level],
            )

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        for stage in self.stages:
            x = stage(x, context)
            if self.every:
                skips.append(x)
        if not self.every:
            skips.append(x)
        if self.downsample is None:
            return x
        x = self.downsample(x)
        if self.keeps_downsampled:
            skips.append(x)
        return x


class Up(nn.Module):
    """One level on the way up; takes its skips from the stack.

    Args:
        width: channels of x.
        stack: channels of the skips that are left; the level removes its own.
    """

    def __init__(self, plan: Plan, level: int, width: int, stack: list[int]) -> None:
        super().__init__()
        self.merge = plan.skip_merge
        own = plan.widths[level] if plan.up_width == "own" else plan.below(level)
        count = plan.blocks[level]
        self.taken = 1
        if plan.skips == "block":
            count += 1 if plan.skip_merge == "concat" else 0
            self.taken = count
        ins = []
        for n in range(count):
            ins.append(width + self._skip_width(stack, width) if n < self.taken else width)
            width = own
        self.stages = plan.stages(level, ins, [own] * count)
        self.upsample = None
        self.width = own
        if level:
            self.width = own if plan.skip_merge == "concat" else plan.below(level)
            self.upsample = upsample(
                plan.dims,
                own,
                self.width,
                how=plan.upsample,
                kernel=plan.upsample_kernel,
                factor=plan.factors[level - 1],
            )

    def _skip_width(self, stack: list[int], width: int) -> int:
        skip = stack.pop()
        return skip if self.merge == "concat" else 0

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        for n, stage in enumerate(self.stages):
            if n < self.taken:
                skip = skips.pop()
                if self.merge == "concat":
                    x = torch.cat([x, skip], dim=1)
                else:
                    x = merged(x, skip, self.merge == "normalized_add")
            x = stage(x, context)
        return x if self.upsample is None else self.upsample(x)


class Network(nn.Module):
    """x (b c_in *n) and its context -> (b c_out *n)."""

    def __init__(
        self,
        plan: Plan,
        *,
        c_in: int,
        c_added: int,
        c_out: int,
        first_kernel: int,
        last_kernel: int,
        middle: bool,
        middle_attention: bool,
        finest_up: bool,
        final_block: str,
        groups: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.first = conv(plan.dims, c_in, plan.base, first_kernel)
        self.add = conv(plan.dims, c_added, plan.base, 1) if c_added else None
        self.keeps_first = plan.skips == "block" and plan.skip_merge == "concat"
        levels = range(len(plan.widths))
        self.downs = nn.ModuleList(Down(plan, i) for i in levels)
        width = plan.widths[-1]
        self.middle = nn.ModuleList()
        if middle:
            attention = plan.attends_middle() if middle_attention else None
            self.middle.append(Stage(plan.resnet(width, width), attention))
            self.middle.append(Stage(plan.resnet(width, width), None))
        stack = self._skip_widths(plan)
        ups = []
        for level in reversed(levels if finest_up else levels[1:]):
            ups.append(Up(plan, level, width, stack))
            width = ups[-1].width
        self.ups = nn.ModuleList(ups)
        self.final = plan.resnet(width, plan.base) if final_block == "residual" else None
        self.last = (
            conv(plan.dims, plan.base, c_out, last_kernel)
            if final_block == "residual"
            else NormOut(
                plan.dims,
                width,
                c_out,
                groups=groups,
                norm_kind=plan.norm_kind,
                kernel=last_kernel,
                activation=activation,
            )
        )
        _number(self)

    def _skip_widths(self, plan: Plan) -> list[int]:
        widths = [plan.base] if self.keeps_first else []
        for level, width in enumerate(plan.widths):
            widths += [width] * (plan.blocks[level] if plan.skips == "block" else 1)
            if self.keeps_first and level < plan.last:
                widths.append(width)
        return widths

    def forward(self, x: Tensor, context: Context, added: Tensor | None = None) -> Tensor:
        """`added` (b c_added *n) joins the features behind the first convolution."""
        x = self.first(x)
        if self.add is not None and added is not None:
            x = x + self.add(added)
        skips = [x] if self.keeps_first else []
        for down in self.downs:
            x = down(x, context, skips)
        for stage in self.middle:
            x = stage(x, context)
        for up in self.ups:
            x = up(x, context, skips)
        if self.final is not None:
            x = self.final(x, context.time, context.globals_)
        return self.last(x)


def cross_attentions(network: nn.Module) -> list[CrossAttention]:
    """The layers whose keys and values `Tokens.cross` holds, in order."""
    return [m for m in network.modules() if isinstance(m, CrossAttention)]


def prepend_attentions(network: nn.Module) -> list[SelfAttention]:
    """The layers whose keys and values `Tokens.prepend` holds, in order."""
    return [m for m in network.modules() if isinstance(m, SelfAttention) and m.prepend is not None]


def _number(network: nn.Module) -> None:
    for index, cross in enumerate(cross_attentions(network)):
        cross.index = index
    for index, own in enumerate(prepend_attentions(network)):
        own.index = index
