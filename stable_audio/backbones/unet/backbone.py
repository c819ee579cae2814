"""unet: one configurable residual U-Net for waveforms and latents (dims 1) and spectrograms (dims 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.backbones.unet.attention import Tokens
from stable_audio.backbones.unet.blocks import BlockVector
from stable_audio.backbones.unet.checks import check, check_readers
from stable_audio.backbones.unet.embedding import TimeEmbedding
from stable_audio.backbones.unet.layers import over_positions
from stable_audio.backbones.unet.levels import LevelBuilder, LevelInputs
from stable_audio.backbones.unet.network import Network, cross_attentions, prepend_attentions
from stable_audio.backbones.unet.options import (
    AttentionPlaces,
    BlockOptions,
    ConditioningOptions,
    LevelOptions,
)
from stable_audio.backbones.unet.slots import Slots
from stable_audio.backbones.unet.vectors import MechanismInputs, Vectors
from stable_audio.nn.precision import parameter_dtype
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Conditioning, Slot


class UNet(Backbone):
    """General residual U-Net; the presets in model_configs/unet are classic designs.

    In one dimension x is (b c n). In two it is (b c h w), or (b c * height n) when `height` is given. The
    fields of all options are keywords as well: `UNet(io_channels=2, channels=32, skips="level")`.

    Args:
        io_channels: channels of x.
        height: with dims 2: x comes as (b io_channels * height n) and is unfolded to this many rows.
        layout: the levels, see `LevelOptions`.
        block: the residual blocks, see `BlockOptions`.
        places: the attention blocks, see `AttentionPlaces`.
        conditioning: use of t and the slots, see `ConditioningOptions`.

    Raises:
        ValueError: lists that do not fit together, widths that do not divide, slots that no level uses.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        io_channels: int,
        height: int | None = None,
        layout: Flat[LevelOptions] = LevelOptions(),  # noqa: B008 (frozen)
        block: Flat[BlockOptions] = BlockOptions(),  # noqa: B008 (frozen)
        places: Flat[AttentionPlaces] = AttentionPlaces(),  # noqa: B008 (frozen)
        conditioning: Flat[ConditioningOptions] = ConditioningOptions(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        self_levels, cross_levels = places.self_levels(layout), places.cross_levels(layout)
        cross_dim, prepend_dim = conditioning.cross_dim(layout.channels), conditioning.prepend.dim
        cross_levels = cross_levels if cross_dim else [False] * len(cross_levels)
        check(layout, block, height)
        check_readers(
            cross_dim=cross_dim,
            has_cross=any(cross_levels),
            prepend_dim=prepend_dim,
            has_self=any(self_levels),
        )
        self.dims, self.height = layout.dims, height
        self.io_channels = io_channels * (height or 1)
        self.length_multiple = math.prod(layout.rates)
        self.mechanism, self.masks_attention = conditioning.global_mechanism, True
        self.slot_reader = Slots(conditioning, dims=layout.dims, height=height)
        self.slot_widths = self.slot_reader.widths
        self.time_embedding = TimeEmbedding(conditioning.time, layout.channels)
        features, self.time_steps = self.time_embedding.features, conditioning.time.steps
        mechanisms = conditioning.mechanisms
        self.vectors = None if mechanisms is None else Vectors(mechanisms, features, cross_dim)
        if self.vectors is not None and self.vectors.dim:
            self.slot_widths[Slot.GLOBAL] = self.vectors.dim
            self.global_widths = self.vectors.widths
        self.required_slots = frozenset(self.slot_widths)
        global_dim = conditioning.global_cond.dim
        adds = global_dim and self.mechanism == "sum"
        self.to_time = nn.Linear(global_dim, features, bias=False) if adds else None
        plan = LevelBuilder(
            layout=layout,
            block=block,
            places=places,
            self_attention=self_levels,
            cross_attention=cross_levels,
            cross_dim=cross_dim,
            prepend_dim=prepend_dim,
            vectors=self._block_vectors(features, conditioning),
        )
        self.network = Network(
            plan,
            c_in=io_channels + self.slot_reader.frame_widths["concat"] + self._planes(global_dim),
            c_added=self.slot_reader.frame_widths["sum"],
            c_out=io_channels,
        )

    def _planes(self, global_dim: int) -> int:
        """Number of input channels for vectors, which are repeated over positions."""
        if self.vectors is not None:
            return self.vectors.width("concat")
        return global_dim if self.mechanism == "concat" else 0

    def _block_vectors(
        self, features: int, conditioning: ConditioningOptions
    ) -> tuple[BlockVector, BlockVector]:
        """The two vectors of residual blocks."""
        if self.vectors is not None:
            first, second, *_ = [
                *(BlockVector(*v) for v in self.vectors.blocks),
                BlockVector(),
                BlockVector(),
            ]
            return first, second
        adaptive = self.mechanism == "adaptive"
        return (
            BlockVector(features, conditioning.time_injection == "scale_shift"),
            BlockVector(conditioning.global_cond.dim if adaptive else 0, True),
        )

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        shape, x = x.shape, self.slot_reader.unfolded(x)
        global_vector = self.slot_reader.value(cond, Slot.GLOBAL, self.training)
        inputs = self._mechanism_inputs(
            self.time_embedding(t, x.dtype), None if global_vector is None else global_vector.to(x.dtype)
        )
        frames = self.slot_reader.frames(cond, x, self.training)
        planes = [x, *frames["concat"]]
        if inputs.planes is not None:
            planes.append(over_positions(inputs.planes, self.dims).expand(-1, -1, *x.shape[2:]))
        tokens = cond.prepared if isinstance(cond.prepared, Tokens) else self._tokens(cond)
        context = LevelInputs(inputs.first, inputs.second, replace(tokens, vectors=inputs.tokens))
        added = torch.cat(frames["sum"], dim=1) if frames["sum"] else None
        return self.network(torch.cat(planes, dim=1), context, added).reshape(shape)

    def _mechanism_inputs(self, time: Tensor, global_vector: Tensor | None) -> MechanismInputs:
        if self.vectors is not None:
            return self.vectors(time, global_vector)
        if global_vector is not None and self.to_time is not None:
            time = time + self.to_time(global_vector)
        return MechanismInputs(
            first=time,
            second=global_vector if self.mechanism == "adaptive" else None,
            planes=global_vector if self.mechanism == "concat" else None,
        )

    def null(self, cond: Conditioning) -> Conditioning | None:
        """Zeros in every slot but input_concat, which is the material to work on; masks stay."""
        zeros = {
            slot.field: torch.zeros_like(value)
            for slot in self.droppable
            if (value := cond.slot(slot)) is not None
        }
        return cond.replace(**zeros) if zeros else None

    @property
    def droppable(self) -> tuple[Slot, ...]:
        return tuple(s for s in (Slot.CROSS_ATTN, Slot.PREPEND, Slot.GLOBAL) if s in self.slots)

    @property
    def read_apart(self) -> Sequence[tuple[nn.Module, str]]:
        """Keys and values of conditioning tokens are computed before the blocks run."""
        cross = [layer.keys_values for layer in cross_attentions(self.network)]
        prepended = [layer.prepend for layer in prepend_attentions(self.network)]
        return [(part, "forward") for part in (*cross, *prepended) if part is not None]

    def prepare(self, cond: Conditioning) -> Conditioning:
        """Compute the keys and values of conditioning tokens, which depend on neither x nor t."""
        return cond.replace(prepared=self._tokens(cond))

    def _tokens(self, cond: Conditioning) -> Tokens:
        cross, prepend = (self._typed(cond, slot) for slot in (Slot.CROSS_ATTN, Slot.PREPEND))
        layers = cross_attentions(self.network) if cross is not None else []
        readers = prepend_attentions(self.network) if prepend is not None else []
        blank = self.vectors is None or not len(self.vectors.to_tokens)
        return Tokens(
            cross=tuple(layer.keys_values(cross) for layer in layers),
            cross_mask=self.slot_reader.mask(Slot.CROSS_ATTN, cond.cross_attn_mask, blank=blank),
            prepend=tuple(layer.prepend(prepend) for layer in readers),  # type: ignore[misc]
            prepend_mask=self.slot_reader.mask(Slot.PREPEND, cond.prepend_mask, blank=False),
        )

    def _typed(self, cond: Conditioning, slot: Slot) -> Tensor | None:
        """The merged tensor of a slot, in the type of the network's parameters."""
        value = self.slot_reader.value(cond, slot, self.training)
        return None if value is None else value.to(parameter_dtype(self.network))
