"""Bottlenecks `fsq` and `dithered_fsq`: every channel is rounded to a few levels, no codebook is learned.

Mentzer et al. 2023 (finite scalar quantisation); Parker et al. 2024 (the dithered, symmetric form).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stable_audio.nn.checks import check_counts
from stable_audio.nn.precision import computed_in_float32
from stable_audio.pretransforms.bottlenecks.base import DiscreteBottleneck, Info, NoiseSource
from stable_audio.pretransforms.bottlenecks.continuous import append_noise


def round_through(x: Tensor) -> Tensor:
    """Round; gradients pass unchanged."""
    return x + (x.round() - x).detach()


class _ScalarQuantizer(nn.Module):
    """Levels, codebooks and projections of both forms. Works on channels last (b n c)."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int], num_codebooks: int, dim: int | None) -> None:
        super().__init__()
        if not levels or any(v < 2 for v in levels):
            raise ValueError(f"levels must be at least 2 each, found {list(levels)}")
        # Besides the buffer, which has no values while a model is planned on the meta device.
        self.num_codebooks, self.level_counts = num_codebooks, tuple(levels)
        values = torch.tensor(levels, dtype=torch.int64)
        basis = torch.cat([torch.ones(1, dtype=torch.int64), values[:-1].cumprod(0)])
        self.register_buffer("levels", values, persistent=False)
        self.register_buffer("basis", basis, persistent=False)
        self.codebook_size = math.prod(levels)
        width = len(levels) * num_codebooks
        self.dim = width if dim is None else dim
        self.project_in = nn.Linear(self.dim, width) if self.dim != width else nn.Identity()
        self.project_out = nn.Linear(width, self.dim) if self.dim != width else nn.Identity()

    @abstractmethod
    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (b n k l) -> (output of the bottleneck, integer levels from 0)."""

    @abstractmethod
    def values(self, integers: Tensor) -> Tensor:
        """Integer levels (..., l) -> values in [-1, 1]."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b c n) -> (quantised (b c n), tokens (b q n))."""
        z = self.project_in(x.mT)
        z = z.unflatten(-1, (self.num_codebooks, -1))
        quantised, integers = self.quantize(z.float())
        tokens = (integers * self.basis).sum(-1)
        return self.project_out(quantised.to(x.dtype).flatten(2)).mT, tokens.mT

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (b q n) -> (b c n)."""
        if tokens.shape[1] != self.num_codebooks:
            raise ValueError(f"expected tokens of {self.num_codebooks} codebooks, found {tokens.shape[1]}")
        integers = tokens.mT[..., None] // self.basis % self.levels
        weight = next(self.parameters(), None)
        values = self.values(integers).to(torch.float32 if weight is None else weight.dtype)
        return self.project_out(values.flatten(2)).mT


class FSQ(_ScalarQuantizer):
    """Mentzer et al. 2023: tanh bound with a half-step offset for even level counts."""

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = torch.atanh(offset / half)
        rounded = round_through(torch.tanh(z + shift) * half - offset)
        half_width = self.levels // 2
        integers = rounded.detach().round().long() + half_width
        return rounded / half_width, integers

    def values(self, integers: Tensor) -> Tensor:
        half_width = self.levels // 2
        return (integers - half_width) / half_width


class DitheredFSQ(_ScalarQuantizer):
    """Levels spread evenly over [-1, 1]; in training, most items get dither instead of rounding."""

    def __init__(self, levels: Sequence[int], num_codebooks: int, noise_dropout: float) -> None:
        super().__init__(levels, num_codebooks, None)
        self.noise_dropout = noise_dropout

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        bounded = torch.tanh(z)
        half = (self.levels - 1) / 2
        scaled = round_through((bounded + 1) * half)
        integers = scaled.detach().round().long()
        rounded = scaled / half - 1
        return (self._dither(bounded, rounded, 1 / half) if self.training else rounded), integers

    def _dither(self, bounded: Tensor, rounded: Tensor, step: Tensor) -> Tensor:
        """Two independent draws per item: whether it is rounded, then whether dither replaces it."""
        draws = torch.rand(2, bounded.shape[0], 1, 1, 1, device=bounded.device)
        values = torch.where(draws[0] < self.noise_dropout, bounded, rounded)
        noisy = bounded + (torch.rand_like(bounded) - 0.5) * step
        return torch.where(draws[1] < self.noise_dropout, values, noisy)

    def values(self, integers: Tensor) -> Tensor:
        return integers / ((self.levels - 1) / 2) - 1


class _FSQBottleneck(DiscreteBottleneck):
    quantizer: _ScalarQuantizer

    def _finish(self, quantizer: _ScalarQuantizer) -> None:
        self.quantizer = quantizer
        self.num_quantizers, self.codebook_size = quantizer.num_codebooks, quantizer.codebook_size
        self.channels = quantizer.dim
        self.settings = (*quantizer.level_counts, quantizer.num_codebooks)

    @computed_in_float32
    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        latents, tokens = self.quantizer(x)
        return latents, {"tokens": tokens}

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return self.quantizer.decode(tokens)


class FSQBottleneck(_FSQBottleneck):
    """Finite scalar quantisation.

    Args:
        levels: levels of each channel of a codebook.
        num_codebooks: groups of such channels.
        dim: latent channels; projected to `len(levels) * num_codebooks` if they differ.
        keep_num_codebooks_dim: accepted for existing files, but not false with several codebooks; tokens
            are (b q n) in any case.
        noise_augment_dim: channels of noise appended for the decoder.
    """

    def __init__(
        self,
        *,
        levels: list[int],
        num_codebooks: int = 1,
        dim: int | None = None,
        keep_num_codebooks_dim: bool | None = None,
        noise_augment_dim: int = 0,
    ) -> None:
        super().__init__()
        if keep_num_codebooks_dim is False and num_codebooks > 1:
            raise ValueError("keep_num_codebooks_dim must not be false with more than one codebook")
        self.decoder_channels_added = noise_augment_dim
        self._finish(FSQ(levels, num_codebooks, dim))

    @computed_in_float32
    def decode(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        return append_noise(latents, self.decoder_channels_added, noise, training=self.training)


class DitheredFSQBottleneck(_FSQBottleneck):
    """Symmetric scalar quantisation, trained with dither (Parker et al. 2024).

    Latents have `dim * num_codebooks` channels, those of the first codebook first, and pass tanh. In
    training each item is rounded with probability 1 - noise_dropout, and then, rounded or not, replaced with
    probability 1 - noise_dropout by tanh(x) plus uniform noise as wide as one step.

    Args:
        dim: channels of each codebook.
        levels: levels of each of these channels, or one number for all of them.
        num_codebooks: groups of `dim` channels, each with its own token.
        dither_inference: has no effect: inference always rounds, as existing checkpoints expect.
        noise_dropout: probability of skipping each of these two steps for a training item.
    """

    def __init__(
        self,
        *,
        dim: int,
        levels: int | list[int],
        num_codebooks: int = 1,
        dither_inference: bool = True,
        noise_dropout: float = 0.05,
    ) -> None:
        super().__init__()
        check_counts(dim=dim)
        levels = [levels] * dim if isinstance(levels, int) else levels
        if len(levels) != dim:
            raise ValueError(
                f"levels has {len(levels)} entries, but dim, the channels of each codebook, is {dim}; "
                "give one number of levels per channel, or one for all"
            )
        if not 0 <= noise_dropout <= 1:
            raise ValueError(f"noise_dropout must be between 0 and 1, found {noise_dropout}")
        self._finish(DitheredFSQ(levels, num_codebooks, noise_dropout))
