"""Length-dependent shift of t: long latents need more noise before their coarse structure is hidden."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class DistributionShift:
    """Moves t towards noise, further for longer latents (Esser et al. 2024, section 5.3.2).

    t' = 1 - e^mu / (e^mu + 1 / (1 - t) - 1), with -mu linear from base_shift at min_length to max_shift at
    max_length. t = 0 and t = 1 are unchanged. With use_sine, t' becomes sin(pi t' / 2).

    Args:
        base_shift: shift at min_length.
        max_shift: shift at max_length.
        max_length: latent frames at which the shift is largest; longer latents are clamped to it.
        min_length: latent frames at which the shift is base_shift; shorter latents are clamped to it.
        use_sine: map the result t' to sin(pi t' / 2), which is nearer to noise.
    """

    def __init__(
        self,
        *,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        max_length: int = 4096,
        min_length: int = 256,
        use_sine: bool = False,
    ) -> None:
        if not 0 < min_length < max_length:
            raise ValueError(
                f"0 < min_length < max_length is needed, found min_length {min_length}, "
                f"max_length {max_length}"
            )
        self.base_shift = base_shift
        self.max_shift = max_shift
        self.max_length = max_length
        self.min_length = min_length
        self.use_sine = use_sine

    def __call__(self, t: Tensor, length: int) -> Tensor:
        """Shift t (any shape, in [0, 1]) for latents of `length` frames."""
        clamped = min(max(length, self.min_length), self.max_length)
        share = (clamped - self.min_length) / (self.max_length - self.min_length)
        weight = math.exp(-(self.base_shift + (self.max_shift - self.base_shift) * share))
        # 1 - w / (w + t / (1 - t)), with the fraction cleared so that t = 1 needs no division by zero.
        shifted = t / (t + weight * (1 - t))
        return torch.sin(shifted * math.pi / 2) if self.use_sine else shifted
