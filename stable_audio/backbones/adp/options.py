"""The options that the U-Nets of this family share, and the sizes that follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from stable_audio.backbones.adp.stft import STFT
from stable_audio.backbones.adp.unet import UNetSizes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all U-Nets of this family.

    Attributes:
        in_channels: channels of x.
        channels: base width.
        multipliers: width of the input and of every level, in `channels`.
        factors: downsampling per level.
        num_blocks: residual blocks per level.
        attentions: transformer blocks per level; the last entry is the bottleneck's.
        patch_size: neighbours folded into channels before the first level.
        resnet_groups: groups of the residual blocks' norms.
        use_context_time: whether the network is conditioned on t.
        kernel_multiplier_downsample: kernel of the downsampling is factor times this, plus 1.
        use_nearest_upsample: nearest-neighbour upsampling and a convolution, not a transposed convolution.
        use_skip_scale: scale skips by 1 / sqrt(2).
        use_stft: run on the short-time Fourier transform of x.
        use_stft_context: transform the first level's input_concat as well.
        stft_num_fft: size of the transform.
        stft_hop_length: samples between frames of the transform.
        stft_window_length: window of the transform in samples; stft_num_fft by default.
        stft_length: samples of the output; as x by default.
        stft_use_complex: real and imaginary parts instead of magnitude and phase.
        out_channels: channels of the output; in_channels by default.
        context_features: features of the global slot.
        context_features_multiplier: width of the time and global features, in `channels`.
        context_channels: channels of input_concat for the input and for each level; the slot holds their
            sum, split in this order and resized (nearest) to each level.
        attention_heads: number of heads at every width.
        attention_features: width of a head; without attention_heads, it sets the number of heads.
        attention_multiplier: width of the feed-forward layers, in the level's channels.
    """

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

    @property
    def mapping_features(self) -> int | None:
        """Width of the time and global features; None without both."""
        if self.use_context_time or self.context_features:
            return self.channels * self.context_features_multiplier
        return None

    def stft(self) -> STFT | None:
        """The transform before the U-Net; None without."""
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

    def layout(self, stft: STFT | None, token_features: int | None) -> UNetSizes:
        """Sizes of the U-Net after the transform."""
        scale = stft.channels if stft is not None else 1
        concat = list(self.context_channels or ())
        if concat and self.use_stft_context:
            concat[0] *= scale
        names = {f.name for f in dataclasses.fields(UNetSizes)}
        same = {name: value for name, value in vars(self).items() if name in names}
        changed = {
            "in_channels": self.in_channels * scale,
            "out_channels": (self.out_channels or self.in_channels) * scale,
            "context_channels": concat,
            "mapping_features": self.mapping_features,
            "token_features": token_features,
        }
        return UNetSizes(**{**same, **changed})
