"""unet: one configurable residual U-Net for waveforms and latents (dims 1) and spectrograms (dims 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.backbones.unet.attention import AttentionOptions, Tokens
from stable_audio.backbones.unet.blocks import ResBlock, resized
from stable_audio.backbones.unet.checks import GROUPS, attention_levels, check, per_level
from stable_audio.backbones.unet.conditioning import FrameOptions, Merge, SlotOptions
from stable_audio.backbones.unet.embedding import TimeEmbedding, TimeOptions
from stable_audio.backbones.unet.layers import (
    ActivationName,
    DownsampleName,
    NormName,
    UpsampleName,
    over_positions,
)
from stable_audio.backbones.unet.network import (
    Context,
    Network,
    Plan,
    SkipMerge,
    cross_attentions,
    prepend_attentions,
)
from stable_audio.backbones.unet.vectors import Acting, Mechanism, Vectors
from stable_audio.types import Conditioning, Slot

_ATTENTION, _TIME, _NO_SLOT, _NO_FRAMES = AttentionOptions(), TimeOptions(), SlotOptions(), FrameOptions()


class UNet(Backbone):
    """General residual U-Net; the presets in model_configs/unet are classic designs.

    In one dimension x is (b c n). In two it is (b c h w), or (b c * height n) when `height` is given.

    Args:
        io_channels: channels of x.
        dims: 1 or 2.
        height: with dims 2: x comes as (b io_channels * height n) and is unfolded to this many rows.
        channels: base width.
        multipliers: width per level, in `channels`.
        blocks: residual blocks per level; one number or one per level.
        factors: rate change between levels; 2 by default.
        first_kernel: kernel of the first convolution.
        last_kernel: kernel of the last one.
        kernel_size: kernel of the residual blocks.
        downsample: strided convolution, max-pooling or average-pooling.
        downsample_kernel: of the strided convolution.
        upsample: nearest or linear interpolation with a convolution behind it, or transposed convolution.
        upsample_kernel: of that convolution.
        norm: `group`: group norms, and layer norms inside transformer blocks; `rms`: root-mean-square norms
            over channels in place of both.
        groups: groups of the group norms; 32 by default. Root-mean-square norms have none.
        norm_position: `pre`: norm, activation, convolution; `post`: convolution, norm, activation.
        dropout: in the residual blocks.
        activation: of the residual blocks.
        residual_scale: `normalized` divides residual sums by sqrt(2).
        skips: one per level, or one after every block.
        skip_merge: concatenate skips, add them, or add and divide by sqrt(2).
        up_width: on the way up a level works at its own width, or already at that of the next finer one.
        attention: per level, whether it has self-attention.
        attention_resolutions: the same, as lengths: a level has it if `resolution` over its rate is listed.
        resolution: length (or height) that `attention_resolutions` refers to.
        cross_attention: per level, whether it has cross-attention; by default where `attention` is.
        attention_every: attention behind every block, or once per level.
        attention_options: how attention blocks are made.
        middle: two residual blocks at the lowest rate.
        middle_attention: attention between them, of the kinds that any level has.
        finest_up: the finest level also on the way up; without it, its skips are unused and the final block
            follows the last upsampling, as in DDPM's.
        final_block: `norm`: norm, activation, convolution; `residual`: residual block, convolution.
        time: how t becomes a vector.
        time_injection: t is added between the convolutions, or scales and shifts the second norm.
        cross_attn: the cross_attn slot: tokens that cross-attention reads.
        global_cond: the global slot.
        global_mechanism: `sum`: added to the time vector; `adaptive`: scale and shift of every block;
            `concat`: repeated over positions as input channels.
        mechanisms: instead of `global_cond`, `global_mechanism` and `time_injection`: how each vector acts
            and joins the others, by conditioner id of `global_cond_ids`, in that order, and `time`.
        prepend: the prepend slot: tokens that self-attention reads besides the positions.
        input_concat: the input_concat slot: more input channels, or channels added behind the first
            convolution, resized (nearest) to x.

    Raises:
        ValueError: lists that do not fit together, widths that do not divide, unserved slots.
    """

    def __init__(
        self,
        *,
        io_channels: int,
        dims: Literal[1, 2] = 1,
        height: int | None = None,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int | Sequence[int] = 2,
        factors: Sequence[int] | None = None,
        first_kernel: int = 3,
        last_kernel: int = 3,
        kernel_size: int = 3,
        downsample: DownsampleName = "conv",
        downsample_kernel: int = 3,
        upsample: UpsampleName = "nearest",
        upsample_kernel: int = 3,
        norm: NormName = "group",
        groups: int | None = None,
        norm_position: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        activation: ActivationName = "silu",
        residual_scale: Literal["plain", "normalized"] = "plain",
        skips: Literal["level", "block"] = "block",
        skip_merge: SkipMerge = "concat",
        up_width: Literal["own", "next"] = "own",
        attention: Sequence[bool] | None = None,
        attention_resolutions: Sequence[int] | None = None,
        resolution: int | None = None,
        cross_attention: Sequence[bool] | None = None,
        attention_every: Literal["block", "level"] = "block",
        attention_options: AttentionOptions = _ATTENTION,
        middle: bool = True,
        middle_attention: bool = True,
        finest_up: bool = True,
        final_block: Literal["norm", "residual"] = "norm",
        time: TimeOptions = _TIME,
        time_injection: Literal["add", "scale_shift"] = "add",
        cross_attn: SlotOptions = _NO_SLOT,
        global_cond: SlotOptions = _NO_SLOT,
        global_mechanism: Literal["sum", "adaptive", "concat"] = "sum",
        mechanisms: Mapping[str, Mechanism] | None = None,
        prepend: SlotOptions = _NO_SLOT,
        input_concat: FrameOptions = _NO_FRAMES,
    ) -> None:
        super().__init__()
        levels = len(multipliers)
        factors = tuple(factors) if factors is not None else (2,) * (levels - 1)
        own = attention_levels(attention, attention_resolutions, resolution, factors, levels)
        cross = own if cross_attention is None else per_level("cross_attention", cross_attention, levels)
        if mechanisms is not None and (
            global_cond.dim or (time_injection, global_mechanism) != ("add", "sum")
        ):
            raise ValueError(
                "mechanisms says how every vector acts: leave out global_cond, global_mechanism and "
                "time_injection"
            )
        by_token = any(m.mechanism == "cross_attention" for m in (mechanisms or {}).values())
        cross_dim = cross_attn.dim or (by_token and (time.hidden or 4 * channels))
        if not cross_dim:
            cross = [False] * levels
        counts = [blocks] * levels if isinstance(blocks, int) else list(blocks)
        check(
            dims=dims,
            height=height,
            levels=levels,
            groups=groups,
            norm=norm,
            widths=[channels, *(channels * m for m in multipliers)],
            factors=factors,
            blocks=counts,
            kernels={"first_kernel": first_kernel, "last_kernel": last_kernel, "kernel_size": kernel_size},
            downsample=(downsample, downsample_kernel),
            upsample=(upsample, upsample_kernel),
            skips=skips,
            up_width=up_width,
            tokens=(cross_dim, any(cross), prepend.dim, any(own)),
        )
        self.dims, self.height, self.channels_in = dims, height, io_channels
        self.io_channels = io_channels * (height or 1)
        self.length_multiple = math.prod(factors)
        self.mechanism = global_mechanism
        self.masks_attention = True
        self.merges = {
            Slot.CROSS_ATTN: Merge(cross_attn, name="cross_attn", axis=1, width_axis=False),
            Slot.GLOBAL: Merge(global_cond, name="global_cond", axis=1, width_axis=True),
            Slot.PREPEND: Merge(prepend, name="prepend", axis=1, width_axis=False),
            Slot.INPUT_CONCAT: Merge(input_concat, name="input_concat", axis=1, width_axis=True),
        }
        rows = {Slot.INPUT_CONCAT: height or 1}
        self.slot_widths = {s: m.width * rows.get(s, 1) for s, m in self.merges.items() if m.width}
        self.time_embedding = TimeEmbedding(time, channels)
        features, self.time_steps = self.time_embedding.features, time.steps
        self.vectors = None if mechanisms is None else Vectors(mechanisms, features, cross_dim)
        if self.vectors is not None and self.vectors.dim:
            self.slot_widths[Slot.GLOBAL] = self.vectors.dim
            self.global_widths = self.vectors.widths
        self.required_slots = frozenset(self.slot_widths)
        vectors = self._block_vectors(features, time_injection, global_cond.dim)
        adds = global_cond.dim and global_mechanism == "sum"
        self.to_time = nn.Linear(global_cond.dim, features, bias=False) if adds else None
        resnet = partial(
            ResBlock,
            dims,
            kernel=kernel_size,
            groups=groups or GROUPS,
            norm_kind=norm,
            norm_position=norm_position,
            activation=activation,
            dropout=dropout,
            time_features=vectors[0][0],
            time_adaptive=vectors[0][1],
            global_features=vectors[1][0],
            global_adaptive=vectors[1][1],
            normalized=residual_scale == "normalized",
        )
        plan = Plan(
            dims=dims,
            base=channels,
            widths=[channels * m for m in multipliers],
            blocks=counts,
            factors=factors,
            attention=own,
            cross_attention=cross,
            attention_options=attention_options,
            attention_every=attention_every,
            cross_dim=cross_dim,
            prepend_dim=prepend.dim,
            norm_kind=norm,
            normalized=residual_scale == "normalized",
            skips=skips,
            skip_merge=skip_merge,
            up_width=up_width,
            downsample=downsample,
            downsample_kernel=downsample_kernel,
            upsample=upsample,
            upsample_kernel=upsample_kernel,
            resnet=resnet,
        )
        planes = global_cond.dim if global_mechanism == "concat" else 0
        if self.vectors is not None:
            planes = self.vectors.width("concat")
        frames = self.merges[Slot.INPUT_CONCAT]
        sizes = {
            k: sum(w for w, m in zip(frames.widths, frames.mechanisms) if m == k) for k in ("concat", "sum")
        }
        self.network = Network(
            plan,
            c_in=io_channels + sizes["concat"] + planes,
            c_added=sizes["sum"],
            c_out=io_channels,
            first_kernel=first_kernel,
            last_kernel=last_kernel,
            middle=middle,
            middle_attention=middle_attention,
            finest_up=finest_up,
            final_block=final_block,
            groups=groups or GROUPS,
            activation=activation,
        )

    def _block_vectors(self, features: int, time_injection: str, global_dim: int) -> list[tuple[int, bool]]:
        """(features, adaptive) of the two vectors that residual blocks read; no features = none."""
        if self.vectors is not None:
            return [*self.vectors.blocks, (0, False), (0, False)][:2]
        adaptive = self.mechanism == "adaptive"
        return [(features, time_injection == "scale_shift"), (global_dim if adaptive else 0, True)]

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        shape, x = x.shape, self._unfolded(x)
        globals_ = self._slot(cond, Slot.GLOBAL)
        acting = self._acting(
            self.time_embedding(t, x.dtype), None if globals_ is None else globals_.to(x.dtype)
        )
        frames = self._frames(cond, x)
        planes = [x, *frames["concat"]]
        if acting.planes is not None:
            planes.append(over_positions(acting.planes, self.dims).expand(-1, -1, *x.shape[2:]))
        tokens = cond.prepared if isinstance(cond.prepared, Tokens) else self._tokens(cond)
        context = Context(acting.first, acting.second, replace(tokens, vectors=acting.tokens))
        added = torch.cat(frames["sum"], dim=1) if frames["sum"] else None
        return self.network(torch.cat(planes, dim=1), context, added).reshape(shape)

    def _acting(self, time: Tensor, globals_: Tensor | None) -> Acting:
        if self.vectors is not None:
            return self.vectors(time, globals_)
        if globals_ is not None and self.to_time is not None:
            time = time + self.to_time(globals_)
        return Acting(
            first=time,
            second=globals_ if self.mechanism == "adaptive" else None,
            planes=globals_ if self.mechanism == "concat" else None,
        )

    def _frames(self, cond: Conditioning, x: Tensor) -> dict[str, list[Tensor]]:
        """The parts of the input_concat slot by their mechanism, at the positions of x."""
        frames: dict[str, list[Tensor]] = {"concat": [], "sum": []}
        if Slot.INPUT_CONCAT in self.slots:
            merge = self.merges[Slot.INPUT_CONCAT]
            parts = merge.parts(self._filled(cond, Slot.INPUT_CONCAT), self.training)
            for mechanism, part in zip(merge.mechanisms, parts):
                frames[mechanism].append(resized(part, x).to(x.dtype))
        return frames

    def null(self, cond: Conditioning) -> Conditioning | None:
        """Zeros in every slot but input_concat, which says what to work on; masks stay."""
        names = {Slot.CROSS_ATTN: "cross_attn", Slot.PREPEND: "prepend", Slot.GLOBAL: "global_"}
        zeros = {
            name: torch.zeros_like(value)
            for slot, name in names.items()
            if slot in self.slots and (value := cond.slot(slot)) is not None
        }
        return cond.replace(**zeros) if zeros else None

    @property
    def droppable(self) -> tuple[Slot, ...]:
        return tuple(s for s in (Slot.CROSS_ATTN, Slot.PREPEND, Slot.GLOBAL) if s in self.slots)

    def prepare(self, cond: Conditioning) -> Conditioning:
        """Compute the keys and values of conditioning tokens, which depend on neither x nor t."""
        return cond.replace(prepared=self._tokens(cond))

    def _slot(self, cond: Conditioning, slot: Slot) -> Tensor | None:
        if slot not in self.slots:
            return None
        return self.merges[slot](self._filled(cond, slot), self.training)

    def _filled(self, cond: Conditioning, slot: Slot) -> Tensor:
        value = cond.slot(slot)
        if value is None:
            raise ValueError(f"this U-Net reads the slot '{slot.value}', but it is empty")
        if slot is Slot.INPUT_CONCAT:
            frames = self.dims == 2 and not self.height and value.ndim == 3
            # Frames without rows are the same in every row.
            value = value.unsqueeze(2) if frames else self._unfolded(value)
        return value

    def _tokens(self, cond: Conditioning) -> Tokens:
        dtype = next(self.network.parameters()).dtype
        found = {}
        for slot in (Slot.CROSS_ATTN, Slot.PREPEND):
            value = self._slot(cond, slot)
            found[slot] = None if value is None else value.to(dtype)
        cross, prepend = found[Slot.CROSS_ATTN], found[Slot.PREPEND]
        layers = cross_attentions(self.network) if cross is not None else []
        readers = prepend_attentions(self.network) if prepend is not None else []
        return Tokens(
            cross=tuple(layer.keys_values(cross) for layer in layers),
            cross_mask=self._mask(Slot.CROSS_ATTN, cond.cross_attn_mask, blank=not self._has_vector_tokens),
            prepend=tuple(layer.prepend(prepend) for layer in readers),  # type: ignore[misc]
            prepend_mask=self._mask(Slot.PREPEND, cond.prepend_mask, blank=False),
        )

    @property
    def _has_vector_tokens(self) -> bool:
        return self.vectors is not None and len(self.vectors.to_tokens) > 0

    def _mask(self, slot: Slot, mask: Tensor | None, *, blank: bool) -> Tensor | None:
        """(b l) -> (b 1 1 l). With `blank`, items without any valid token see all of theirs."""
        mask = self.merges[slot].mask(mask) if slot in self.slots else None
        if mask is None:
            return None
        if blank:
            mask = mask | ~mask.any(dim=1, keepdim=True)
        return mask[:, None, None, :]

    def _unfolded(self, x: Tensor) -> Tensor:
        if x.ndim == self.dims + 2:
            return x
        if self.dims == 2 and x.ndim == 3 and self.height:
            return x.unflatten(1, (-1, self.height))
        wanted = "(b c n)" if self.dims == 1 else "(b c h w), or (b c * height n) with `height` set"
        raise ValueError(f"a U-Net of {self.dims} dimensions takes {wanted}, found shape {tuple(x.shape)}")
