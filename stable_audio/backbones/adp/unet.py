"""The U-Net of audio-diffusion-pytorch 0.0.94: levels of residual blocks and transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.adp.conv import (
    NumberFeatures,
    Patcher,
    ResnetBlock,
    Unpatcher,
    downsample,
    upsample,
)
from stable_audio.backbones.adp.layer_inputs import LayerInputs
from stable_audio.backbones.adp.transformer import CrossAttention, Transformer
from stable_audio.nn.checks import check_counts


@dataclass(frozen=True)
class UNetSizes:
    """Sizes of the U-Net, with the names of the configuration, which `Options` explains."""

    in_channels: int
    out_channels: int
    channels: int
    multipliers: Sequence[int]
    factors: Sequence[int]
    num_blocks: Sequence[int]
    attentions: Sequence[int]
    patch_size: int
    resnet_groups: int
    kernel_multiplier_downsample: int
    use_nearest_upsample: bool
    use_skip_scale: bool
    context_channels: Sequence[int]
    mapping_features: int | None
    token_features: int | None
    attention_heads: int | None
    attention_features: int | None
    attention_multiplier: int

    def width(self, level: int) -> int:
        return self.channels * self.multipliers[level]

    def concat(self, level: int) -> int:
        """Channels of input_concat at level `level`; level 0 is the input."""
        return self.context_channels[level] if level < len(self.context_channels) else 0

    def resnet(self, c_in: int, c_out: int) -> ResnetBlock:
        groups, features = self.resnet_groups, self.mapping_features
        return ResnetBlock(c_in, c_out, groups=groups, mapping_features=features)

    def transformer(self, layers: int, channels: int) -> Transformer | None:
        if not layers:
            return None
        return Transformer(
            layers,
            channels,
            heads=self.attention_heads,
            head_features=self.attention_features,
            multiplier=self.attention_multiplier,
            token_features=self.token_features,
        )


class Down(nn.Module):
    """One level of the downsampling path; returns x and the skips for the upsampling path."""

    def __init__(self, layout: UNetSizes, level: int) -> None:
        super().__init__()
        width = layout.width(level + 1)
        self.level = level
        self.downsample = downsample(
            layout.width(level), width, layout.factors[level], layout.kernel_multiplier_downsample
        )
        extra = [layout.concat(level + 1)] + [0] * (layout.num_blocks[level] - 1)
        self.blocks = nn.ModuleList(layout.resnet(width + more, width) for more in extra)
        self.transformer = layout.transformer(layout.attentions[level], width)

    def forward(self, x: Tensor, context: LayerInputs) -> tuple[Tensor, list[Tensor]]:
        x = self.downsample(x)
        concat = context.channels[self.level + 1] if len(context.channels) > self.level + 1 else None
        if concat is not None:
            x = torch.cat([x, F.interpolate(concat, size=x.shape[-1], mode="nearest")], dim=1)
        skips = []
        for block in self.blocks:
            x = block(x, context.mapping)
            skips.append(x)
        if self.transformer is not None:
            x = self.transformer(x, context)
            skips.append(x)
        return x, skips


class Up(nn.Module):
    """One level of the upsampling path; uses one skip per block, the last one first."""

    def __init__(self, layout: UNetSizes, level: int) -> None:
        super().__init__()
        width = layout.width(level + 1)
        self.skip_scale = 2**-0.5 if layout.use_skip_scale else 1.0
        count = layout.num_blocks[level] + (1 if layout.attentions[level] else 0)
        self.blocks = nn.ModuleList(layout.resnet(2 * width, width) for _ in range(count))
        self.transformer = layout.transformer(layout.attentions[level], width)
        self.upsample = upsample(
            width, layout.width(level), layout.factors[level], layout.use_nearest_upsample
        )

    def forward(self, x: Tensor, skips: list[Tensor], context: LayerInputs) -> Tensor:
        for block, skip in zip(self.blocks, reversed(skips)):
            x = block(torch.cat([x, skip * self.skip_scale], dim=1), context.mapping)
        if self.transformer is not None:
            x = self.transformer(x, context)
        return self.upsample(x)


class Bottleneck(nn.Module):
    """Residual block, transformer, residual block at the lowest rate."""

    def __init__(self, layout: UNetSizes) -> None:
        super().__init__()
        width = layout.width(-1)
        self.pre_block = layout.resnet(width, width)
        self.transformer = layout.transformer(layout.attentions[-1], width)
        self.post_block = layout.resnet(width, width)

    def forward(self, x: Tensor, context: LayerInputs) -> Tensor:
        x = self.pre_block(x, context.mapping)
        if self.transformer is not None:
            x = self.transformer(x, context)
        return self.post_block(x, context.mapping)


def time_embedding(channels: int, features: int) -> nn.Sequential:
    """(b,) -> (b features): learned Fourier features, linear, GELU."""
    number = nn.Sequential(NumberFeatures(channels), nn.Linear(channels + 1, features))
    return nn.Sequential(number, nn.GELU())


def add_unet(module: nn.Module, layout: UNetSizes) -> None:
    """Add the parts of the U-Net to `module`, under the names that published checkpoints use."""
    levels = range(len(layout.factors))
    features, width = layout.mapping_features, layout.width(0)
    module.to_in = Patcher(layout.in_channels + layout.concat(0), width, layout.patch_size, features)
    module.downsamples = nn.ModuleList(Down(layout, i) for i in levels)
    module.bottleneck = Bottleneck(layout)
    module.upsamples = nn.ModuleList(Up(layout, i) for i in reversed(levels))
    module.to_out = Unpatcher(width, layout.out_channels, layout.patch_size, features)
    cross = [m for m in module.modules() if isinstance(m, CrossAttention)]
    for index, attention in enumerate(cross):
        attention.index = index


def run_unet(module: Any, x: Tensor, context: LayerInputs) -> Tensor:
    """x (b c n), including its input_concat -> (b c n), with the parts that `add_unet` added to `module`."""
    x = first = module.to_in(x, context.mapping)
    stack = []
    for down in module.downsamples:
        x, skips = down(x, context)
        stack.append(skips)
    x = module.bottleneck(x, context)
    for up in module.upsamples:
        x = up(x, stack.pop(), context)
    return module.to_out(x + first, context.mapping)


def check_layout(layout: UNetSizes) -> None:
    """Raise ValueError for lists that do not fit together."""
    levels = len(layout.factors)
    if len(layout.multipliers) != levels + 1:
        raise ValueError(
            f"multipliers needs one entry more than factors ({levels + 1}), found {len(layout.multipliers)}"
        )
    check_counts(num_blocks=max(layout.num_blocks, default=0))
    if len(layout.num_blocks) != levels:
        raise ValueError(f"num_blocks needs {levels} entries like factors, found {len(layout.num_blocks)}")
    if len(layout.attentions) < levels or not layout.attentions:
        raise ValueError(f"attentions needs at least {levels} entries, found {len(layout.attentions)}")
    if len(layout.context_channels) > levels + 1:
        raise ValueError(
            f"context_channels has at most {levels + 1} entries, found {len(layout.context_channels)}"
        )
    if layout.width(0) % layout.patch_size:
        raise ValueError(
            f"channels * multipliers[0] = {layout.width(0)} must divide by patch_size {layout.patch_size}"
        )
    if layout.kernel_multiplier_downsample % 2:
        raise ValueError(
            f"kernel_multiplier_downsample must be even, found {layout.kernel_multiplier_downsample}"
        )
    bad = [c for c in map(layout.width, range(levels + 1)) if c % layout.resnet_groups]
    if levels and any(c in bad for c in map(layout.width, range(1, levels + 1))):
        raise ValueError(f"resnet_groups {layout.resnet_groups} must divide the channels, found {bad}")


def rate_of(layout: UNetSizes) -> int:
    """Input samples per frame at the bottleneck."""
    return layout.patch_size * math.prod(layout.factors)
