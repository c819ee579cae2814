"""The interfaces of encoders and decoders, whose sizes are checked when they are combined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from stable_audio.nn.checkpointing import Checkpointed
from stable_audio.nn.precision import full_precision


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of an encoder from the audio to the latents; a decoder has them in reverse order.

    Attributes:
        channels: base width; stage i ends with `channels * c_mults[i]`.
        latent_dim: channels of the latents, before the bottleneck.
        c_mults: width of each stage as a multiple of `channels`.
        strides: factor by which each stage changes the rate. Odd strides round lengths down unevenly.

    Raises:
        ValueError: lists of different lengths, or a stride below 1.
    """

    channels: int = 128
    latent_dim: int = 32
    c_mults: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    strides: list[int] = field(default_factory=lambda: [2, 4, 8, 8])

    def __post_init__(self) -> None:
        check_stages(self.strides, c_mults=self.c_mults)

    @property
    def ratio(self) -> int:
        """Audio samples per frame of latents."""
        return math.prod(self.strides)

    @property
    def widths(self) -> list[int]:
        """Output width of each stage."""
        return [self.channels * multiple for multiple in self.c_mults]


@dataclass(frozen=True, kw_only=True)
class TransformerStages(Stages):
    """Stages with transformers.

    Attributes:
        transformer_depths: transformer blocks of each stage.
    """

    transformer_depths: list[int] = field(default_factory=lambda: [3, 3, 3, 3])

    def __post_init__(self) -> None:
        check_stages(self.strides, c_mults=self.c_mults, transformer_depths=self.transformer_depths)


class CoderStage(nn.Module):
    """A part of a coder that is called as a module. Nothing else reads its weights, which can be gathered for
    the call alone."""


class Coder(nn.Module):
    """What encoders and decoders have in common."""

    @property
    def units(self) -> Sequence[nn.Module]:
        """The outermost stages and blocks: they hold most of the weights and are called one by one, each once
        in a forward pass."""
        outer: list[nn.Module] = []
        inside: set[int] = set()
        for module in self.modules():
            if isinstance(module, (CoderStage, Checkpointed)) and id(module) not in inside:
                outer.append(module)
                inside.update(map(id, module.modules()))
        return outer


class Encoder(Coder):
    """Audio (b in_channels n) -> features (b latent_dim n / downsampling_ratio).

    `latent_dim` is the number of output channels, before the bottleneck (twice the latents for a VAE).
    """

    in_channels: int
    latent_dim: int
    downsampling_ratio: int

    def forward(self, audio: Tensor) -> Tensor:
        raise NotImplementedError


class Decoder(Coder):
    """Features (b latent_dim n) -> audio (b out_channels n * downsampling_ratio)."""

    latent_dim: int
    out_channels: int
    downsampling_ratio: int

    def forward(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


def decode_in_stages(layers: nn.Sequential, x: Tensor, *, audible: int) -> Tensor:
    """Apply all layers in order; under autocast, the last `audible` ones in float32.

    These work at the rate of the audio: their rounding errors are noise in the audio, which dominates a loss
    of log magnitudes in the quiet parts of the spectrum, so that training would end at a higher loss.
    """
    stages = list(layers)
    for layer in stages[:-audible]:
        x = layer(x)
    return full_precision(stages[-audible:], x)


def check_stages(strides: Sequence[int], **lists: Sequence[object]) -> int:
    """The product of `strides`, after checking that every list has one entry per stride.

    Raises:
        ValueError: a list has another length; the message has its name and both lengths.
    """
    for name, values in lists.items():
        if len(values) != len(strides):
            raise ValueError(
                f"{name} has {len(values)} entries and strides {len(strides)}; give one per stage: "
                f"{name}={list(values)}, strides={list(strides)}"
            )
    if any(s < 1 for s in strides):
        raise ValueError(f"strides must be at least 1, found {list(strides)}")
    return math.prod(strides)
