"""`x0`: the data."""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio.diffusion.objectives.base import Objective, Scale, positive
from stable_audio.diffusion.processes import CosineProcess
from stable_audio.diffusion.spaces import FLOW, VP


class X0Objective(Objective):
    """The data itself, on any process (Salimans & Ho 2022, section 4).

    Where there is no noise, the estimate of the noise is 0, the limit of -sigma times the score of the data.
    """

    name = "x0"
    spaces = (VP, FLOW)
    default_process = CosineProcess
    default_sampler = "ddim"
    default_steps = 50
    default_cfg_scale = 6.0
    demo_sampler = "ddim"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return x0

    def denoised_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return output

    def noise_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        residual = (x_t - alpha * output) / positive(sigma)
        if isinstance(sigma, Tensor):
            return torch.where(sigma > 0, residual, 0.0)
        return residual if sigma > 0 else torch.zeros_like(residual)
