"""The keywords that the U-Nets of this family share, and the sizes that follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stable_audio.backbones.adp.stft import STFT
from stable_audio.backbones.adp.unet import Layout


@dataclass(frozen=True, kw_only=True)
class Options:
    """The constructor keywords of `ADP1d`; explained there."""

    in_channels: int
    channels: int
    multipliers: Sequence[int]
    factors: Sequence[int]
    num_blocks: Sequence[int]
    attentions: Sequence[int]
    patch_size: int = 1
    resnet_groups: int = 8
    use_context_time: bool = True
    kernel_multiplier_downsample: int = 2
    use_nearest_upsample: bool = False
    use_skip_scale: bool = True
    use_stft: bool = False
    use_stft_context: bool = False
    stft_num_fft: int = 1023
    stft_hop_length: int | None = 256
    stft_window_length: int | None = None
    stft_length: int | None = None
    stft_use_complex: bool = False
    out_channels: int | None = None
    context_features: int | None = None
    context_features_multiplier: int = 4
    context_channels: Sequence[int] | None = None
    attention_heads: int | None = None
    attention_features: int | None = None
    attention_multiplier: int = 2

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Options:
        """Pick the fields out of a constructor's arguments."""
        return cls(**{f.name: arguments[f.name] for f in dataclasses.fields(cls)})

    @property
    def mapping_features(self) -> int | None:
        """Width of the time and global features, None where there are neither."""
        if self.use_context_time or self.context_features:
            return self.channels * self.context_features_multiplier
        return None

    def stft(self) -> STFT | None:
        """The transform in front of the U-Net."""
        if self.use_stft_context and not self.use_stft:
            raise ValueError("use_stft_context needs use_stft")
        if not self.use_stft:
            return None
        return STFT(
            num_fft=self.stft_num_fft,
            hop_length=self.stft_hop_length,
            window_length=self.stft_window_length,
            length=self.stft_length,
            use_complex=self.stft_use_complex,
        )

    def layout(self, stft: STFT | None, token_features: int | None) -> Layout:
        """Sizes of the U-Net behind the transform."""
        scale = stft.channels if stft is not None else 1
        concat = list(self.context_channels or ())
        if concat and self.use_stft_context:
            concat[0] *= scale
        same = {f.name: getattr(self, f.name) for f in dataclasses.fields(Layout) if hasattr(self, f.name)}
        changed = {
            "in_channels": self.in_channels * scale,
            "out_channels": (self.out_channels or self.in_channels) * scale,
            "context_channels": concat,
            "token_features": token_features,
        }
        return Layout(**{**same, **changed})
