"""Embeddings of positions and of t."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """A learned vector per position, scaled by dim^-0.5.

    Args:
        max_length: number of positions.
        memory: number of memory tokens before them, which have additional rows.
    """

    def __init__(self, dim: int, *, max_length: int, memory: int = 0) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.max_length, self.memory = max_length, memory
        self.emb = nn.Embedding(max_length + memory, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (b n d) -> embedding to add to x, (n d).

        Raises:
            ValueError: x is longer than the table.
        """
        length = x.shape[1] - self.memory
        if length > self.max_length:
            raise ValueError(
                f"sequence of {length} tokens, but abs_pos_emb_max_length is {self.max_length}; raise it"
            )
        return self.emb(torch.arange(x.shape[1], device=x.device)) * self.scale


class SinusoidalPositions(nn.Module):
    """sin in the first half of the channels, cos in the second, times a learned scale."""

    def __init__(self, dim: int, *, theta: float = 10000.0) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"sinusoidal positions need an even number of channels, found {dim}")
        self.count, self.theta = dim // 2, theta
        self.scale = nn.Parameter(torch.full((1,), dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """x (b n d) -> embedding to add to x, (n d)."""
        positions = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
        exponents = torch.arange(self.count, device=x.device, dtype=torch.float32) / self.count
        angles = positions[:, None] * self.theta**-exponents
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(x.dtype) * self.scale


class FourierFeatures(nn.Module):
    """Random Fourier features (Tancik et al., 2020): [cos f, sin f] with f = 2 pi t W^T.

    Args:
        dim: output features, even.
        std: standard deviation of W at the start; W is trained.
    """

    def __init__(self, dim: int = 256, *, std: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim // 2, 1) * std)

    def forward(self, t: Tensor) -> Tensor:
        """t (b,) -> (b dim), float32, because half precision rounds t near 0 and 1 too much."""
        angles = 2 * math.pi * t.float()[:, None] * self.weight.float()[:, 0]
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ExpoFourierFeatures(nn.Module):
    """[cos f, sin f] at fixed frequencies from min_freq to max_freq, evenly spaced on a log scale."""

    def __init__(self, dim: int = 256, *, min_freq: float = 0.5, max_freq: float = 10000.0) -> None:
        super().__init__()
        self.log_min, self.log_max = math.log(min_freq), math.log(max_freq)
        self.dim, self.count = dim, dim // 2

    def forward(self, t: Tensor) -> Tensor:
        """t (b,) -> (b dim), float32."""
        # The order of operations is that of published weights: the largest angles magnify its rounding.
        ramp = torch.linspace(0.0, 1.0, self.count, device=t.device)
        freqs = (ramp * (self.log_max - self.log_min) + self.log_min).exp()
        angles = t.float()[:, None] * freqs * 2 * math.pi
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


TIMESTEP_FEATURES = {"learned": FourierFeatures, "expo": ExpoFourierFeatures}


class ProjectionMLP(nn.Sequential):
    """Linear, SiLU, Linear: how the DiT projects each kind of conditioning and t."""

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool) -> None:
        super().__init__(
            nn.Linear(dim_in, dim_out, bias=bias), nn.SiLU(), nn.Linear(dim_out, dim_out, bias=bias)
        )
