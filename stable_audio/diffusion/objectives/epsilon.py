"""`epsilon`: the noise."""

from __future__ import annotations

from torch import Tensor

from stable_audio.diffusion.objectives.base import Objective, Scale, positive
from stable_audio.diffusion.processes import CosineProcess, Process
from stable_audio.diffusion.spaces import FLOW, VP


class EpsilonObjective(Objective):
    """The noise itself (Ho et al. 2020, equation 14), on any process.

    In pure noise it contains no information about the data. Therefore sampling on a continuous process
    begins at sigma / alpha = 100, and a process of steps must end before pure noise.
    """

    name = "epsilon"
    spaces = (VP, FLOW)
    default_process = CosineProcess
    max_ratio = 100.0
    default_sampler = "ddim"
    default_steps = 50
    default_cfg_scale = 6.0
    demo_sampler = "ddim"

    def __init__(self, *, process: Process | None = None) -> None:
        super().__init__(process=process)
        if self.process.steps is not None and self.process.ends_in_noise:
            raise ValueError(
                "zero_terminal_snr ends in pure noise, where 'epsilon' determines nothing; use 'v' or 'x0'"
            )

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def denoised_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (x_t - sigma * output) / positive(alpha)

    def noise_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return output
