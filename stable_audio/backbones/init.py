"""Initialisation shared by backbones."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def scale_parameters(module: nn.Module, factor: float) -> None:
    """Multiply every parameter by `factor` (the published U-Nets start at half of torch's defaults)."""
    for parameter in module.parameters():
        parameter.mul_(factor)
