"""`v`: the velocity on the circle of variance-preserving processes."""

from __future__ import annotations

from torch import Tensor

from stable_audio.diffusion.objectives.base import Objective, Scale
from stable_audio.diffusion.processes import CosineProcess
from stable_audio.diffusion.spaces import VP


class VObjective(Objective):
    """v = alpha noise - sigma x0, where alpha^2 + sigma^2 = 1.

    Salimans & Ho 2022, "Progressive distillation for fast sampling of diffusion models".
    """

    name = "v"
    spaces = (VP,)
    default_process = CosineProcess
    default_sampler = "dpmpp-2m-sde"
    default_steps = 100
    default_cfg_scale = 6.0
    demo_sampler = "v-ddim"

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._scales(x0, t)
        return alpha * noise - sigma * x0

    def denoised_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return alpha * x_t - sigma * output

    def noise_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return sigma * x_t + alpha * output
