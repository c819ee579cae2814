"""The 2-D variational autoencoder of Stable Diffusion (Rombach et al. 2022), for spectrograms.

Encoder and decoder for `Autoencoder`, with a 2-D pretransform around them and the `gaussian` bottleneck
between. State keys below `encoder.` and `decoder.` are those of the published weights, where the 1x1
convolutions around the bottleneck (`quant_conv`, `post_quant_conv`) are part of encoder and decoder.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.checks import check_counts
from stable_audio.nn.fused import fused_attention
from stable_audio.nn.precision import full_precision
from stable_audio.pretransforms.coder import Decoder, Encoder


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(Checkpointed):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution if the width changes."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels_in), _norm(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def compute(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttnBlock(nn.Module):
    """Single-head self-attention over all pixels, 1x1 convolutions as projections."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).mT.unsqueeze(1) for conv in (self.q, self.k, self.v))
        y = fused_attention(q, k, v).squeeze(1).mT.reshape(x.shape)
        return x + self.proj_out(y)


class Downsample(nn.Module):
    """Convolution 3x3 with stride 2, padded at the right and the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest x2, then a convolution 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class _Level(nn.Module):
    """Residual blocks, then an optional change of resolution under the key `name`."""

    def __init__(self, widths: list[int], name: str | None) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a, b) for a, b in pairwise(widths))
        self.name = name
        if name is not None:
            self.add_module(name, (Downsample if name == "downsample" else Upsample)(widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self.name is None else self.get_submodule(self.name)(x)


def _check(ch: int, ch_mult: list[int], num_res_blocks: int) -> None:
    check_counts(num_res_blocks=num_res_blocks)
    if ch % 32 or not ch_mult or num_res_blocks < 1:
        raise ValueError(
            f"autoencoder_kl needs ch a multiple of 32, ch_mult and num_res_blocks >= 1, found ch={ch}, "
            f"ch_mult={ch_mult}, num_res_blocks={num_res_blocks}"
        )


class KLEncoder(Encoder):
    """Image (b in_channels f n) -> mean and log-variance (b latent_dim f/r n/r), r = 2^(levels - 1).

    Args:
        in_channels: image channels.
        latent_dim: output channels, twice those of the latents (8 for 4).
        ch: width of the first level.
        ch_mult: width of each level as a multiple of `ch`.
        num_res_blocks: residual blocks per level.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        latent_dim: int = 8,
        ch: int = 128,
        ch_mult: list[int] = [1, 2, 4, 4],  # noqa: B006
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        _check(ch, ch_mult, num_res_blocks)
        self.in_channels, self.latent_dim = in_channels, latent_dim
        self.downsampling_ratio = 2 ** (len(ch_mult) - 1)
        widths = [ch, *(ch * m for m in ch_mult)]
        last = len(ch_mult) - 1
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList(
            _Level([a, *[b] * num_res_blocks], None if i == last else "downsample")
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.mid = _Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latent_dim, 3, padding=1)
        self.quant_conv = nn.Conv2d(latent_dim, latent_dim, 1)

    def forward(self, audio: Tensor) -> Tensor:
        x = self.conv_in(audio)
        for level in self.down:
            x = level(x)
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(self.mid(x)))))


class KLDecoder(Decoder):
    """Latents (b latent_dim f n) -> image (b out_channels f*r n*r), r = 2^(levels - 1).

    Options as for KLEncoder; each level has `num_res_blocks + 1` blocks.
    """

    def __init__(
        self,
        *,
        out_channels: int = 3,
        latent_dim: int = 4,
        ch: int = 128,
        ch_mult: list[int] = [1, 2, 4, 4],  # noqa: B006
        num_res_blocks: int = 2,
    ) -> None:
        super().__init__()
        _check(ch, ch_mult, num_res_blocks)
        self.out_channels, self.latent_dim = out_channels, latent_dim
        self.downsampling_ratio = 2 ** (len(ch_mult) - 1)
        widths = [ch * m for m in ch_mult]
        inputs = [*widths[1:], widths[-1]]
        self.post_quant_conv = nn.Conv2d(latent_dim, latent_dim, 1)
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1])
        # Stored from fine to coarse, as in the published weights, and run from coarse to fine.
        self.up = nn.ModuleList(
            _Level([a, *[b] * (num_res_blocks + 1)], None if i == 0 else "upsample")
            for i, (a, b) in enumerate(zip(inputs, widths))
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(latents)))
        coarse_to_fine = list(reversed(self.up))
        for level in coarse_to_fine[:-1]:
            x = level(x)
        return full_precision([coarse_to_fine[-1], self.norm_out, F.silu, self.conv_out], x)
