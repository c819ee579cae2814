"""`rectified_flow` and `rf_denoiser`: the velocity along straight paths."""

from __future__ import annotations

from torch import Tensor

from stable_audio.diffusion.objectives.base import Objective, Scale
from stable_audio.diffusion.processes import FlowProcess
from stable_audio.diffusion.spaces import FLOW


class RectifiedFlowObjective(Objective):
    """Straight paths: alpha = 1 - t, sigma = t, velocity = noise - x0.

    Liu et al. 2022, "Flow straight and fast"; Lipman et al. 2022, "Flow matching".
    """

    name = "rectified_flow"
    spaces = (FLOW,)
    default_process = FlowProcess
    default_sampler = "euler"
    default_steps = 50
    default_cfg_scale = 6.0
    demo_sampler = "euler"
    predicts_flow = True

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def denoised_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return x_t - sigma * output

    def noise_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return x_t + alpha * output


class RFDenoiserObjective(RectifiedFlowObjective):
    """A rectified flow meant for few steps of denoising and renoising; trained exactly like one."""

    name = "rf_denoiser"
    default_sampler = "pingpong"
    default_steps = 8
    default_cfg_scale = 1.0
    demo_sampler = "pingpong"
    demo_schedule = "logsnr"
