"""What the backbone predicts. x_t = alpha(t) x0 + sigma(t) noise, t in [0, 1], 0 = data, 1 = noise."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from stable_audio.diffusion.spaces import FLOW, VP, Space

DemoSchedule = Literal["linear", "logsnr"]


def broadcast_like(values: Tensor, x: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, ...) with the rank of x; scalars stay scalars."""
    return values.reshape(-1, *([1] * (x.ndim - 1))) if values.ndim else values


class Objective:
    """Base of the objectives. t is (b,) or a scalar tensor; x0, noise, x_t and output are (b c n).

    Attributes:
        name: its name in configs.
        space: the path on which the backbone is trained.
        default_sampler, default_steps, default_cfg_scale: for generation when the caller names none.
        demo_sampler, demo_schedule: for demos during training.
    """

    name: str
    space: Space
    default_sampler: str
    default_steps: int
    default_cfg_scale: float
    demo_sampler: str
    demo_schedule: DemoSchedule = "linear"

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scale at t, in the shape of t."""
        raise NotImplementedError

    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma noise."""
        alpha, sigma = self._scales(x0, t)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the backbone should return for noisy(x0, noise, t)."""
        raise NotImplementedError

    def denoised(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of x0 that `output` stands for."""
        raise NotImplementedError

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of the noise that `output` stands for; x_t = alpha denoised + sigma noise."""
        raise NotImplementedError

    def _scales(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(broadcast_like(t, x))
        return alpha, sigma


class VObjective(Objective):
    """v prediction on the circle: alpha = cos(pi t / 2), sigma = sin(pi t / 2), v = alpha noise - sigma x0.

    Salimans & Ho 2022, "Progressive distillation for fast sampling of diffusion models".
    """

    name = "v"
    space = VP
    default_sampler = "dpmpp-2m-sde"
    default_steps = 100
    default_cfg_scale = 6.0
    demo_sampler = "v-ddim"

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._scales(x0, t)
        return alpha * noise - sigma * x0

    def denoised(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._scales(x_t, t)
        return alpha * x_t - sigma * output

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._scales(x_t, t)
        return sigma * x_t + alpha * output


class RectifiedFlowObjective(Objective):
    """Straight paths: alpha = 1 - t, sigma = t, velocity = noise - x0.

    Liu et al. 2022, "Flow straight and fast"; Lipman et al. 2022, "Flow matching".
    """

    name = "rectified_flow"
    space = FLOW
    default_sampler = "euler"
    default_steps = 50
    default_cfg_scale = 6.0
    demo_sampler = "euler"

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def denoised(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t - broadcast_like(t, x_t) * output

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t + (1 - broadcast_like(t, x_t)) * output


class RFDenoiserObjective(RectifiedFlowObjective):
    """A rectified flow meant for few steps of denoising and renoising; trained exactly like one."""

    name = "rf_denoiser"
    default_sampler = "pingpong"
    default_steps = 8
    default_cfg_scale = 1.0
    demo_sampler = "pingpong"
    demo_schedule = "logsnr"


OBJECTIVES: dict[str, type[Objective]] = {
    "v": VObjective,
    "rectified_flow": RectifiedFlowObjective,
    "rf_denoiser": RFDenoiserObjective,
}
