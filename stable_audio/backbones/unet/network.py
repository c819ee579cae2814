"""The U-Net itself: downsampling levels, middle, upsampling levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stable_audio.backbones.unet.attention import CrossAttention, SelfAttention
from stable_audio.backbones.unet.blocks import NormOut
from stable_audio.backbones.unet.layers import conv, downsample, merged, upsample
from stable_audio.backbones.unet.levels import LevelBuilder, LevelInputs
from stable_audio.backbones.unet.options import LevelOptions


class Down(nn.Module):
    """One level of the downsampling path; pushes its skips onto the stack."""

    def __init__(self, plan: LevelBuilder, level: int) -> None:
        super().__init__()
        layout = plan.layout
        width = layout.widths[level]
        ins = [layout.below(level)] + [width] * (layout.counts[level] - 1)
        self.stages = plan.stages(level, ins, [width] * len(ins))
        self.every = layout.skips == "block"
        self.keeps_downsampled = self.every and layout.skip_merge == "concat"
        self.downsample = None
        if level < layout.last:
            self.downsample = downsample(
                layout.dims,
                width,
                width,
                kind=layout.downsample,
                kernel=layout.downsample_kernel,
                factor=layout.rates[level],
            )

    def forward(self, x: Tensor, context: LevelInputs, skips: list[Tensor]) -> Tensor:
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
    """One level of the upsampling path; pops its skips from the stack.

    Args:
        plan: the parts of the level.
        level: number of the level.
        width: channels of x.
        stack: channels of the remaining skips; the level pops those that it uses.
    """

    def __init__(self, plan: LevelBuilder, level: int, width: int, stack: list[int]) -> None:
        super().__init__()
        layout = plan.layout
        self.merge = layout.skip_merge
        level_width = layout.widths[level] if layout.up_width == "own" else layout.below(level)
        count = layout.counts[level]
        self.skip_count = 1
        if layout.skips == "block":
            count += 1 if layout.skip_merge == "concat" else 0
            self.skip_count = count
        ins = []
        for n in range(count):
            ins.append(width + self._skip_width(stack, width) if n < self.skip_count else width)
            width = level_width
        self.stages = plan.stages(level, ins, [level_width] * count)
        self.upsample = None
        self.width = level_width
        if level:
            self.width = level_width if layout.skip_merge == "concat" else layout.below(level)
            self.upsample = upsample(
                layout.dims,
                level_width,
                self.width,
                kind=layout.upsample,
                kernel=layout.upsample_kernel,
                factor=layout.rates[level - 1],
            )

    def _skip_width(self, stack: list[int], width: int) -> int:
        skip = stack.pop()
        return skip if self.merge == "concat" else 0

    def forward(self, x: Tensor, context: LevelInputs, skips: list[Tensor]) -> Tensor:
        for n, stage in enumerate(self.stages):
            if n < self.skip_count:
                skip = skips.pop()
                if self.merge == "concat":
                    x = torch.cat([x, skip], dim=1)
                else:
                    x = merged(x, skip, self.merge == "normalized_add")
            x = stage(x, context)
        return x if self.upsample is None else self.upsample(x)


class Network(nn.Module):
    """x (b c_in *n) and its context -> (b c_out *n).

    Args:
        c_in: channels of x.
        c_added: channels that are added to the features after the first convolution; 0 for none.
        c_out: channels of the output.
    """

    def __init__(self, plan: LevelBuilder, *, c_in: int, c_added: int, c_out: int) -> None:
        super().__init__()
        layout, base = plan.layout, plan.layout.channels
        self.first = conv(layout.dims, c_in, base, layout.first_kernel)
        self.add = conv(layout.dims, c_added, base, 1) if c_added else None
        self.keeps_first = layout.skips == "block" and layout.skip_merge == "concat"
        levels = range(len(layout.multipliers))
        self.downs = nn.ModuleList(Down(plan, i) for i in levels)
        self.middle = plan.middle()
        width, stack, ups = layout.widths[-1], self._skip_widths(layout), []
        for level in reversed(levels if layout.finest_up else levels[1:]):
            ups.append(Up(plan, level, width, stack))
            width = ups[-1].width
        self.ups = nn.ModuleList(ups)
        kernel = layout.last_kernel
        self.final = plan.resnet(width, base) if layout.final_block == "residual" else None
        self.last = (
            conv(layout.dims, base, c_out, kernel)
            if self.final is not None
            else NormOut(layout.dims, width, c_out, kernel=kernel, options=plan.block)
        )
        _set_indices(self)

    def _skip_widths(self, layout: LevelOptions) -> list[int]:
        """Channels of the skips, in the order in which the downsampling path pushes them."""
        widths = [layout.channels] if self.keeps_first else []
        for level, width in enumerate(layout.widths):
            widths += [width] * (layout.counts[level] if layout.skips == "block" else 1)
            if self.keeps_first and level < layout.last:
                widths.append(width)
        return widths

    def forward(self, x: Tensor, context: LevelInputs, added: Tensor | None = None) -> Tensor:
        """x (b c_in *n) -> (b c_out *n); `added` (b c_added *n) is added after the first convolution."""
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
            x = self.final(x, context.time, context.global_vector)
        return self.last(x)


def cross_attentions(network: nn.Module) -> list[CrossAttention]:
    """The layers whose keys and values `Tokens.cross` holds, in order."""
    return [m for m in network.modules() if isinstance(m, CrossAttention)]


def prepend_attentions(network: nn.Module) -> list[SelfAttention]:
    """The layers whose keys and values `Tokens.prepend` holds, in order."""
    return [m for m in network.modules() if isinstance(m, SelfAttention) and m.prepend is not None]


def _set_indices(network: nn.Module) -> None:
    for index, cross in enumerate(cross_attentions(network)):
        cross.index = index
    for index, prepend in enumerate(prepend_attentions(network)):
        prepend.index = index
