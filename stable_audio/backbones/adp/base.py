"""The base of the U-Nets of this family: everything but cross-attention tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.adp.layer_inputs import KeysValues, LayerInputs
from stable_audio.backbones.adp.options import Options
from stable_audio.backbones.adp.unet import add_unet, check_layout, rate_of, run_unet, time_embedding
from stable_audio.backbones.base import Backbone
from stable_audio.backbones.init import scale_parameters
from stable_audio.types import Conditioning, Slot

TokenFields = tuple[Tensor | None, tuple[KeysValues, ...]]
"""Time token and keys and values, as in `LayerInputs`."""


class ADPBackbone(Backbone):
    """Time, global features, input_concat per level, patching and STFT around the U-Net."""

    def __init__(self, options: Options, *, token_features: int | None = None) -> None:
        super().__init__()
        self.options = options
        self.io_channels = options.in_channels
        self.stft = options.stft()
        layout = options.layout(self.stft, token_features)
        check_layout(layout)
        self.rate = rate_of(layout)
        # After the transform, frames are padded to the rate, so that any length is allowed.
        self.length_multiple = self.rate if self.stft is None else 1
        self._add_mapping(options)
        add_unet(self, layout)
        if options.context_features:
            self.slot_widths[Slot.GLOBAL] = options.context_features
        if sum(options.context_channels or ()):
            self.slot_widths[Slot.INPUT_CONCAT] = sum(options.context_channels or ())

    def finish(self) -> None:
        """Finish construction; subclasses call it at the end of their constructors."""
        self.required_slots = frozenset(self.slot_widths)
        scale_parameters(self, 0.5)

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        n = x.shape[-1]
        h = x if self.stft is None else self.stft.encode(x)
        channels = self._concat(cond, n, h.shape[-1])
        if channels and channels[0] is not None:
            h = torch.cat([h, channels[0].to(h.dtype)], dim=1)
        time_token, keys_values = self.token_fields(t, cond, x.dtype)
        mapping = self._mapping(t, cond, x.dtype)
        context = LayerInputs(mapping, time_token, keys_values, channels)
        if self.stft is None:
            return run_unet(self, h, context)
        frames = h.shape[-1]
        y = run_unet(self, F.pad(h, (0, -frames % self.rate)), context)
        return self.stft.decode(y[..., :frames], n)

    def token_fields(self, t: Tensor, cond: Conditioning, dtype: torch.dtype) -> TokenFields:
        """The inputs of cross-attention; none without it."""
        return None, ()

    def _add_mapping(self, options: Options) -> None:
        self.to_time = self.to_features = self.to_mapping = None
        width = options.mapping_features
        if width is None:
            return
        if options.use_context_time:
            self.to_time = time_embedding(options.channels, width)
        if options.context_features:
            self.to_features = nn.Sequential(nn.Linear(options.context_features, width), nn.GELU())
        self.to_mapping = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )

    def _mapping(self, t: Tensor, cond: Conditioning, dtype: torch.dtype) -> Tensor | None:
        if self.to_mapping is None:
            return None
        total: Tensor | None = None if self.to_time is None else self.to_time(t)
        if self.to_features is not None:
            if cond.global_cond is None:
                raise ValueError("context_features is set, but there is no global conditioning")
            features = self.to_features(cond.global_cond.to(dtype))
            total = features if total is None else total + features
        return self.to_mapping(total)

    def _concat(self, cond: Conditioning, n: int, frames: int) -> tuple[Tensor | None, ...]:
        """input_concat split into levels; the part of the input has the length of the U-Net's input."""
        widths = list(self.options.context_channels or ())
        if not sum(widths):
            return ()
        if cond.input_concat is None:
            raise ValueError("context_channels is set, but there is no input_concat conditioning")
        parts = list(F.interpolate(cond.input_concat, size=n, mode="nearest").split(widths, dim=1))
        if self.stft is not None and widths[0]:
            transform = self.options.use_stft_context
            parts[0] = self.stft.encode(parts[0]) if transform else F.interpolate(parts[0], size=frames)
        return tuple(part if part.shape[1] else None for part in parts)
