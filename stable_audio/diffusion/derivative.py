"""The derivative of the output of a network along a path, for objectives that need it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stable_audio.diffusion.objectives.base import Network


def derivative(network: Network, x: Tensor, t: Tensor, dx_dt: Tensor) -> Tensor:
    """d network(x(t), t) / dt = dx_dt . d/dx network(x, t) + d/dt network(x, t), in the shape of the output.

    One pass of forward-mode differentiation, which costs about two calls of the network; no gradient flows
    back through it. Attention uses plain products here, because fused kernels have no such derivative.

    Args:
        network: (x (b c n), t (b,)) -> (b c n).
        dx_dt: velocity of x (b c n).
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        tangent = torch.func.jvp(network, (x, t), (dx_dt, torch.ones_like(t)))[1]
    return tangent.detach()
