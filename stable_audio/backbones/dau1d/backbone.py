"""DAU1d: the U-Net of Dance Diffusion (Harmonai), for waveforms and for short latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.backbones.dau1d.blocks import ConvBlock, SelfAttention, SkipConcat
from stable_audio.backbones.dau1d.resample import downsample, upsample
from stable_audio.backbones.init import scale_parameters
from stable_audio.nn.embeddings import FourierFeatures
from stable_audio.types import Conditioning, Slot

_TIME_FEATURES = 16


class DAU1d(Backbone):
    """Attention U-Net whose time and conditioning enter as extra input channels.

    Level i (0 = outermost) works at 1 / prod(strides[:i]) of the rate with channels[i] channels; its
    skip is concatenated. All parameters start at half of torch's default.

    Args:
        io_channels: channels of x.
        depth: levels.
        channels: channels per level, at least `depth` of them.
        strides: rate change between levels, at least depth - 1 of them.
        n_attn_layers: levels with self-attention, counted from the innermost. As published, one more level
            has it, and none if this is 0.
        cond_dim: channels of the input_concat slot; resized linearly to n.
        cond_noise_aug: in training, add noise of a random level to input_concat and condition the network on
            that level; outside training the level is 0 unless `augment` was called.
        global_cond_dim: features of the global slot, projected and repeated over n as input channels.
        kernel_size: kernel size of every convolution inside the blocks; odd.
        learned_resample: strided convolutions instead of fixed cubic filters.
        conv_bias: whether those convolutions have a bias.
        use_snake: SnakeBeta instead of GELU.

    Raises:
        ValueError: too few channels or strides, even kernel, or values below 1.
    """

    def __init__(
        self,
        *,
        io_channels: int = 2,
        depth: int = 14,
        n_attn_layers: int = 6,
        channels: Sequence[int] = (128, 128, 256, 256, *[512] * 10),
        cond_dim: int = 0,
        cond_noise_aug: bool = False,
        global_cond_dim: int = 0,
        kernel_size: int = 5,
        learned_resample: bool = False,
        strides: Sequence[int] = (2,) * 13,
        conv_bias: bool = True,
        use_snake: bool = False,
    ) -> None:
        super().__init__()
        _check(depth, channels, strides, kernel_size, n_attn_layers)
        if cond_noise_aug and not cond_dim:
            raise ValueError("cond_noise_aug augments the input_concat slot, but cond_dim is 0: set cond_dim")
        self.io_channels = io_channels
        self.cond_dim = cond_dim
        self.cond_noise_aug = cond_noise_aug
        self.length_multiple = math.prod(strides[: depth - 1])
        self._depth = depth
        # The published layout: n_attn_layers + 1 levels have attention, none when it is 0.
        self._attn_from = depth - n_attn_layers - 1 if n_attn_layers else depth
        self._channels, self._strides = tuple(channels), tuple(strides)
        self._conv = {"kernel": kernel_size, "bias": conv_bias, "snake": use_snake}
        self._learned = learned_resample

        self.timestep_embed = FourierFeatures(_TIME_FEATURES)
        width = io_channels + _TIME_FEATURES * (2 if cond_noise_aug else 1) + cond_dim
        if global_cond_dim:
            self.to_global_embed = nn.Linear(global_cond_dim, channels[0], bias=False)
            width += channels[0]
            self.slot_widths[Slot.GLOBAL] = global_cond_dim
        if cond_dim:
            self.slot_widths[Slot.INPUT_CONCAT] = cond_dim
        self.required_slots = frozenset(self.slot_widths)
        self.net = nn.Sequential(*self._outermost(width))
        scale_parameters(self, 0.5)

    def forward(self, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        planes = [x, self._over_length(self.timestep_embed(t), x)]
        concat = cond.input_concat
        if concat is not None and self.cond_dim:
            if concat.shape[-1] != x.shape[-1]:
                concat = F.interpolate(concat, size=x.shape[-1], mode="linear", align_corners=False)
            if self.cond_noise_aug:
                concat, level = self._augmented(concat, cond)
                planes.append(self._over_length(self.timestep_embed(level), x))
        if Slot.GLOBAL in self.slots and cond.global_cond is not None:
            planes.append(self._over_length(self.to_global_embed(cond.global_cond), x))
        if concat is not None and self.cond_dim:
            planes.append(concat.to(x.dtype))
        return self.net(torch.cat(planes, dim=1))

    def null(self, cond: Conditioning) -> Conditioning | None:
        """Zeros for the global slot; input_concat, which is the material to work on, stays."""
        if Slot.GLOBAL not in self.slots or cond.global_cond is None:
            return None
        return cond.replace(global_cond=torch.zeros_like(cond.global_cond))

    @property
    def droppable(self) -> tuple[Slot, ...]:
        return (Slot.GLOBAL,) if Slot.GLOBAL in self.slots else ()

    def augment(self, cond: Conditioning, level: Tensor, noise: Tensor) -> Conditioning:
        """Add `level` (b,) times `noise` (b c n) to input_concat; forward conditions on the level."""
        if cond.input_concat is None:
            raise ValueError("noise augmentation needs input_concat conditioning, but there is none")
        noisy = cond.input_concat + level.view(-1, 1, 1).to(noise) * noise
        return cond.replace(input_concat=noisy, prepared=level)

    def _augmented(self, concat: Tensor, cond: Conditioning) -> tuple[Tensor, Tensor]:
        if isinstance(cond.prepared, Tensor):
            return concat, cond.prepared
        if not self.training:
            return concat, concat.new_zeros(concat.shape[0])
        level = torch.rand(concat.shape[0], device=concat.device)
        return concat + level.view(-1, 1, 1).to(concat) * torch.randn_like(concat), level

    @staticmethod
    def _over_length(vector: Tensor, x: Tensor) -> Tensor:
        return vector.to(x.dtype)[:, :, None].expand(-1, -1, x.shape[-1])

    def _block(self, c_in: int, c_mid: int, c_out: int, last: bool = False) -> ConvBlock:
        return ConvBlock(c_in, c_mid, c_out, last=last, **self._conv)  # type: ignore[arg-type]

    def _outermost(self, width: int) -> list[nn.Module]:
        c = self._channels[0]
        first = [self._block(width, c, c), self._block(c, c, c), self._block(c, c, c)]
        out = self.io_channels
        if self._depth == 1:
            return [*first, self._block(c, c, c), self._block(c, c, c), self._block(c, c, out, last=True)]
        last = [self._block(2 * c, c, c), self._block(c, c, c), self._block(c, c, out, last=True)]
        return [*first, self._level(1), *last]

    def _level(self, i: int) -> SkipConcat:
        outer, c = self._channels[i - 1], self._channels[i]
        innermost = i == self._depth - 1
        attention = i >= self._attn_from

        def attention_or_identity(channels: int) -> nn.Module:
            return SelfAttention(channels) if attention else nn.Identity()

        stride = self._strides[i - 1]
        return SkipConcat(
            downsample(outer, stride, self._learned),
            self._block(outer, c, c),
            attention_or_identity(c),
            self._block(c, c, c),
            attention_or_identity(c),
            self._block(c, c, c),
            attention_or_identity(c),
            nn.Identity() if innermost else self._level(i + 1),
            self._block(c if innermost else 2 * c, c, c),
            attention_or_identity(c),
            self._block(c, c, c),
            attention_or_identity(c),
            self._block(c, c, outer),
            attention_or_identity(outer),
            upsample(outer, stride, self._learned),
        )


def _check(
    depth: int, channels: Sequence[int], strides: Sequence[int], kernel_size: int, n_attn_layers: int
) -> None:
    if depth < 1:
        raise ValueError(f"depth must be at least 1, found {depth}")
    if len(channels) < depth:
        raise ValueError(f"depth {depth} needs {depth} channels, found {len(channels)}: {list(channels)}")
    if len(strides) < depth - 1:
        raise ValueError(f"depth {depth} needs {depth - 1} strides, found {len(strides)}: {list(strides)}")
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise ValueError(f"kernel_size must be odd, found {kernel_size}")
    if n_attn_layers < 0:
        raise ValueError(f"n_attn_layers must be 0 or more, found {n_attn_layers}")
    if any(v < 1 for v in (*channels, *strides)):
        raise ValueError(f"channels and strides must be at least 1, found {list(channels)}, {list(strides)}")
