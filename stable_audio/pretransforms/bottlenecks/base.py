"""The interface of bottlenecks: encoder features <-> latents, and the loss terms of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

NoiseSource = Callable[[Tensor], Tensor]
"""Called with a tensor, returns standard normal noise of its shape, dtype and device."""

Info = dict[str, Any]
"""Loss terms and by-products of an encoding, by name."""


def draw(noise: NoiseSource | None, like: Tensor) -> Tensor:
    """Noise of the shape of `like`, from `noise` or else from torch's generator."""
    return torch.randn_like(like) if noise is None else noise(like)


def draw_for_decoder(noise: NoiseSource | None, like: Tensor, *, training: bool) -> Tensor:
    """Noise for the decoder's input: in use, without a source, the same for every item and call.

    So latents decode to one sound, which depends on neither the batch nor what was drawn before.
    """
    if noise is not None or training:
        return draw(noise, like)
    fixed = torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(0))
    return fixed.to(like).expand_as(like)


def is_distributed() -> bool:
    """Whether several processes train together, so that what is learned without gradients must be of all."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def std_over_processes(x: Tensor) -> Tensor:
    """Standard deviation of all values that the processes have together, a scalar without a gradient."""
    x = x.detach()
    if not is_distributed():
        return x.std()
    x = x.float()  # sums of many numbers are beyond float16
    counted = torch.stack([x.sum(), x.new_full((), x.numel())])
    dist.all_reduce(counted)
    total, count = counted
    squares = (x - total / count).square().sum()
    dist.all_reduce(squares)
    return (squares / (count - 1)).sqrt()


class Bottleneck(nn.Module):
    """Base of the bottlenecks: the identity.

    Attributes:
        input_multiple: encoder channels per latent channel (2 for mean and scale).
        decoder_channels_added: channels that `decode` appends for the decoder.
        loss_weights: {name in info: weight} of the terms that training adds by default.
        settings: settings other than weights and their shapes that change the latents.
        channels: required number of latent channels; None for any number.
    """

    input_multiple: int = 1
    decoder_channels_added: int = 0
    loss_weights: dict[str, float] = {}  # noqa: RUF012
    settings: tuple[object, ...] = ()
    channels: int | None = None

    def encode(self, x: Tensor, *, noise: NoiseSource | None = None) -> tuple[Tensor, Info]:
        """Encoder output (b c*input_multiple n) -> latents (b c n) and loss terms."""
        return x, {}

    def decode(self, latents: Tensor, *, noise: NoiseSource | None = None) -> Tensor:
        """Latents (b c n) -> decoder input (b c+decoder_channels_added n)."""
        return latents

    @property
    def is_discrete(self) -> bool:
        """Whether the bottleneck is discrete, so that latents have tokens."""
        return isinstance(self, DiscreteBottleneck)


class DiscreteBottleneck(Bottleneck):
    """Base of the quantisers. `info["tokens"]` of encode is (b q n) int64.

    Attributes:
        num_quantizers: tokens per latent frame.
        codebook_size: number of values that a token can take.
    """

    num_quantizers: int
    codebook_size: int

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (b q n) -> latents (b c n), like those of `encode`; fewer quantisers are allowed."""
        raise NotImplementedError
