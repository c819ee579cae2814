"""The options of the U-Net: keys of its configuration and keywords of its constructor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stable_audio.backbones.unet.attention_options import AttentionBlockOptions
from stable_audio.backbones.unet.conditioning import InputConcatOptions, SlotOptions
from stable_audio.backbones.unet.embedding import TimeOptions
from stable_audio.backbones.unet.layers import ActivationName, DownsampleName, NormName, UpsampleName
from stable_audio.backbones.unet.vectors import Mechanism

SkipMerge = Literal["concat", "add", "normalized_add"]

GROUPS = 32
"""Default number of groups of group norms."""


@dataclass(frozen=True, kw_only=True)
class LevelOptions:
    """The levels of the U-Net.

    Attributes:
        dims: 1 or 2.
        channels: base width.
        multipliers: width per level, in `channels`.
        blocks: residual blocks per level; one number or one per level.
        factors: rate change between levels; 2 by default.
        first_kernel: kernel of the first convolution.
        last_kernel: kernel of the last convolution.
        downsample: strided convolution, max-pooling or average-pooling.
        downsample_kernel: kernel of the strided convolution.
        upsample: nearest or linear interpolation followed by a convolution, or a transposed convolution.
        upsample_kernel: kernel of that convolution.
        skips: one skip per level, or one after every block.
        skip_merge: concatenate skips, add them, or add and divide by sqrt(2).
        up_width: width in the upsampling path: `own`: that of the level; `next`: that of the next finer one.
        middle: whether there are two residual blocks at the lowest rate.
        middle_attention: attention between them, of all kinds that some level has.
        finest_up: whether the upsampling path includes the finest level. Otherwise its skips are unused and
            the final block follows the last upsampling, as in DDPM.
        final_block: `norm`: norm, activation, convolution; `residual`: residual block, convolution.
    """

    dims: Literal[1, 2] = 1
    channels: int = 64
    multipliers: Sequence[int] = (1, 2, 4)
    blocks: int | Sequence[int] = 2
    factors: Sequence[int] | None = None
    first_kernel: int = 3
    last_kernel: int = 3
    downsample: DownsampleName = "conv"
    downsample_kernel: int = 3
    upsample: UpsampleName = "nearest"
    upsample_kernel: int = 3
    skips: Literal["level", "block"] = "block"
    skip_merge: SkipMerge = "concat"
    up_width: Literal["own", "next"] = "own"
    middle: bool = True
    middle_attention: bool = True
    finest_up: bool = True
    final_block: Literal["norm", "residual"] = "norm"

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.channels * m for m in self.multipliers]

    @property
    def counts(self) -> list[int]:
        """Residual blocks of each level."""
        return [self.blocks] * len(self.multipliers) if isinstance(self.blocks, int) else list(self.blocks)

    @property
    def rates(self) -> tuple[int, ...]:
        """Rate change between level i and i + 1."""
        return (2,) * (len(self.multipliers) - 1) if self.factors is None else tuple(self.factors)

    @property
    def last(self) -> int:
        """Number of the lowest level."""
        return len(self.multipliers) - 1

    def below(self, level: int) -> int:
        """Width of the next finer level."""
        return self.widths[level - 1] if level else self.channels


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """Options of the residual blocks.

    Attributes:
        kernel_size: kernel of the residual blocks.
        norm: `group`: group norms, and layer norms inside transformer blocks; `rms`: root-mean-square norms
            over channels in place of both.
        groups: groups of the group norms; 32 by default. Root-mean-square norms have none.
        norm_position: `pre`: norm, activation, convolution; `post`: convolution, norm, activation.
        dropout: dropout probability in the residual blocks.
        activation: activation of the residual blocks.
        residual_scale: `normalized` divides residual sums by sqrt(2).
    """

    kernel_size: int = 3
    norm: NormName = "group"
    groups: int | None = None
    norm_position: Literal["pre", "post"] = "pre"
    dropout: float = 0.0
    activation: ActivationName = "silu"
    residual_scale: Literal["plain", "normalized"] = "plain"

    @property
    def group_count(self) -> int:
        """Groups of the group norms."""
        return self.groups or GROUPS

    @property
    def normalized(self) -> bool:
        """Whether residual sums are divided by sqrt(2)."""
        return self.residual_scale == "normalized"


@dataclass(frozen=True, kw_only=True)
class AttentionPlaces:
    """Levels with attention, and the structure of the attention blocks.

    Attributes:
        attention: per level, whether it has self-attention.
        attention_resolutions: the same, as lengths: a level has it if `resolution` / its rate is listed.
        resolution: length (or height) to which `attention_resolutions` refers.
        cross_attention: per level, whether it has cross-attention; by default where `attention` is.
        attention_every: attention after every block, or once per level.
        attention_options: structure of the attention blocks.
    """

    attention: Sequence[bool] | None = None
    attention_resolutions: Sequence[int] | None = None
    resolution: int | None = None
    cross_attention: Sequence[bool] | None = None
    attention_every: Literal["block", "level"] = "block"
    attention_options: AttentionBlockOptions = AttentionBlockOptions()  # noqa: RUF009 (frozen)

    def self_levels(self, layout: LevelOptions) -> list[bool]:
        """Whether each level has self-attention, by `attention` or `attention_resolutions`."""
        levels = len(layout.multipliers)
        if self.attention is not None and self.attention_resolutions is not None:
            raise ValueError("give attention or attention_resolutions, not both")
        if self.attention_resolutions is None:
            return (
                [False] * levels if self.attention is None else per_level("attention", self.attention, levels)
            )
        if self.resolution is None:
            raise ValueError("attention_resolutions needs `resolution`, the length that it refers to")
        sizes = [self.resolution]
        for factor in layout.rates:
            sizes.append(sizes[-1] // factor)
        unknown = sorted(set(self.attention_resolutions) - set(sizes))
        if unknown:
            raise ValueError(f"attention_resolutions {unknown} are not among those of the levels, {sizes}")
        return [size in self.attention_resolutions for size in sizes]

    def cross_levels(self, layout: LevelOptions) -> list[bool]:
        """Whether each level has cross-attention, if there are tokens."""
        if self.cross_attention is None:
            return self.self_levels(layout)
        return per_level("cross_attention", self.cross_attention, len(layout.multipliers))


@dataclass(frozen=True, kw_only=True)
class ConditioningOptions:
    """Use of t and of the slots of conditioning.

    Attributes:
        time: the embedding of t.
        time_injection: t is added between the convolutions, or scales and shifts the second norm.
        cross_attn: the cross_attn slot: tokens of cross-attention.
        global_cond: the global slot.
        global_mechanism: `sum`: added to the time vector; `adaptive`: scale and shift of every block;
            `concat`: repeated over positions as input channels.
        mechanisms: instead of `global_cond`, `global_mechanism` and `time_injection`: use of each vector and
            its merging with others, by conditioner id of `global_cond_ids`, in that order, and `time`.
        prepend: the prepend slot: tokens of self-attention besides the positions.
        input_concat: the input_concat slot: more input channels, or channels added after the first
            convolution, resized (nearest) to x.
    """

    time: TimeOptions = TimeOptions()  # noqa: RUF009 (frozen)
    time_injection: Literal["add", "scale_shift"] = "add"
    cross_attn: SlotOptions = SlotOptions()  # noqa: RUF009 (frozen)
    global_cond: SlotOptions = SlotOptions()  # noqa: RUF009 (frozen)
    global_mechanism: Literal["sum", "adaptive", "concat"] = "sum"
    mechanisms: Mapping[str, Mechanism] | None = None
    prepend: SlotOptions = SlotOptions()  # noqa: RUF009 (frozen)
    input_concat: InputConcatOptions = InputConcatOptions()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        changed = (self.time_injection, self.global_mechanism) != ("add", "sum")
        if self.mechanisms is not None and (self.global_cond.dim or changed):
            raise ValueError(
                "mechanisms sets the use of every vector: leave out global_cond, global_mechanism and "
                "time_injection"
            )

    def cross_dim(self, channels: int) -> int:
        """Width of the tokens of cross-attention, for a U-Net of `channels`; 0 without any."""
        by_token = any(m.mechanism == "cross_attention" for m in (self.mechanisms or {}).values())
        return self.cross_attn.dim or ((self.time.hidden or 4 * channels) if by_token else 0)


def per_level(name: str, values: Sequence[bool], levels: int) -> list[bool]:
    """`values` as a list, one per level."""
    if len(values) != levels:
        raise ValueError(f"{name} needs one entry per level ({levels}), found {len(values)}")
    return list(values)
