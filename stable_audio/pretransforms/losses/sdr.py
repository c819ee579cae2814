"""The scale-invariant signal-to-distortion ratio as a loss."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn


class SISDRLoss(nn.Module):
    """Negative scale-invariant signal-to-distortion ratio in dB of x against y (Le Roux et al. 2018).

    Args:
        zero_mean: subtract the mean first.
        eps: small constant that keeps the ratio of silence finite.
    """

    def __init__(self, *, zero_mean: bool = True, eps: Annotated[float, Gt(0)] = 1e-8) -> None:
        super().__init__()
        self.zero_mean, self.eps = zero_mean, eps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (b c n) -> scalar."""
        if self.zero_mean:
            x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
        gain = (x * y).sum(-1, keepdim=True) / (y.square().sum(-1, keepdim=True) + self.eps)
        projection = gain * y
        ratio = projection.square().sum(-1) / ((x - projection).square().sum(-1) + self.eps)
        return -10 * torch.log10(ratio + self.eps).mean()
