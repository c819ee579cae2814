"""Time as a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stable_audio.backbones.unet.layers import ACTIVATIONS, ActivationName


@dataclass(frozen=True)
class TimeOptions:
    """The embedding of t: sines and cosines, then two linear layers.

    Attributes:
        dim: features of the sinusoidal embedding, even; by default the U-Net's `channels`.
        hidden: width of the hidden layer and of the result; by default 4 * `channels`.
        activation: activation between the linear layers.
        steps: number of integer steps 0 .. steps - 1 to which t is rounded; None = continuous t.
        scale: factor of t without integer steps.
        max_period: the longest period, in steps or in units of scale * t.
    """

    dim: int | None = None
    hidden: int | None = None
    activation: ActivationName = "silu"
    steps: int | None = None
    scale: float = 1000.0
    max_period: float = 10000.0


class TimeEmbedding(nn.Module):
    """t (b,) in [0, 1] -> (b features). Ho et al., 2020, appendix B; cosines first."""

    def __init__(self, options: TimeOptions, channels: int) -> None:
        super().__init__()
        self.dim = options.dim or channels
        self.features = options.hidden or 4 * channels
        if self.dim % 2:
            raise ValueError(f"time.dim must be even, found {self.dim}")
        if options.steps is not None and options.steps < 2:
            raise ValueError(f"time.steps must be at least 2, found {options.steps}")
        self.steps, self.scale, self.max_period = options.steps, options.scale, options.max_period
        self.mlp = nn.Sequential(
            nn.Linear(self.dim, self.features),
            ACTIVATIONS[options.activation](),
            nn.Linear(self.features, self.features),
        )

    def positions(self, t: Tensor) -> Tensor:
        """t -> the argument of the sines: integer steps, or t * scale."""
        if self.steps is None:
            return t.float() * self.scale
        return (t.float() * (self.steps - 1)).round()

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        half = self.dim // 2
        exponents = torch.arange(half, device=t.device, dtype=torch.float32) / half
        angles = self.positions(t)[:, None] * torch.exp(-math.log(self.max_period) * exponents)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))
