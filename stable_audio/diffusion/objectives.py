"""What the backbone predicts from x_t = alpha(t) x0 + sigma(t) noise; t in [0, 1], 0 = data, 1 = noise."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from stable_audio.diffusion.processes import CosineProcess, FlowProcess, Process
from stable_audio.diffusion.spaces import FLOW, VP, Space

DemoSchedule = Literal["linear", "logsnr"]
Scale = float | Tensor
"""alpha or sigma: a number, or a tensor that broadcasts over x."""

_TINY = 1e-6  # alpha and sigma that divide are at least this


def broadcast_like(values: Tensor, x: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, ...) with the rank of x; scalars stay scalars."""
    return values.reshape(-1, *([1] * (x.ndim - 1))) if values.ndim else values


class Objective:
    """Base of the objectives. t is (b,) or a scalar tensor; x0, noise, x_t and output are (b c n).

    Args:
        process: the process that sets the noise at each t; None uses `default_process`.

    Attributes:
        name: its name in configs.
        spaces: spaces whose processes the objective fits.
        default_process: process that is used when none is named.
        max_ratio: sampling begins at sigma / alpha = max_ratio at most; for continuous processes.
        default_sampler: sampler for generation when the caller names none.
        default_steps: sampling steps when the caller names none.
        default_cfg_scale: guidance weight when the caller names none.
        demo_sampler: sampler of demos during training.
        demo_schedule: schedule of demos during training; a process of steps has its own.
    """

    name: str
    spaces: tuple[Space, ...]
    default_process: type[Process]
    max_ratio: float = math.inf
    default_sampler: str
    default_steps: int
    default_cfg_scale: float
    demo_sampler: str
    demo_schedule: DemoSchedule = "linear"

    def __init__(self, *, process: Process | None = None) -> None:
        self.process = process if process is not None else self.default_process()
        if self.process.space not in self.spaces:
            raise ValueError(
                f"'{self.name}' is defined for processes of the space "
                f"{' or '.join(s.name for s in self.spaces)}, found one of {self.process.space.name}"
            )

    @property
    def space(self) -> Space:
        """The space of the levels of the process."""
        return self.process.space

    @property
    def usual_steps(self) -> int:
        """`default_steps`, or the number of steps of a process that has fewer."""
        return min(self.default_steps, self.process.steps or self.default_steps)

    @property
    def ratios(self) -> tuple[float, float]:
        """Lowest and highest sigma / alpha at which the backbone may be evaluated."""
        low, high = (_ratio(self.space, v) for v in (self.process.min_level, self.process.max_level))
        return low, high if self.process.steps is not None else min(high, self.max_ratio)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scale at t, in the shape of t."""
        return self.process.alpha_sigma(t)

    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma noise."""
        alpha, sigma = self._scales(x0, t)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the backbone should return for noisy(x0, noise, t)."""
        raise NotImplementedError

    def denoised(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of x0 that `output` stands for."""
        return self.denoised_at(output, x_t, *self._scales(x_t, t))

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of the noise that `output` stands for; x_t = alpha denoised + sigma noise."""
        return self.noise_at(output, x_t, *self._scales(x_t, t))

    def denoised_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """As `denoised`, for scales instead of a time, since samplers may evaluate between two steps."""
        raise NotImplementedError

    def noise_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """As `noise`, for scales instead of a time."""
        raise NotImplementedError

    def _scales(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(broadcast_like(t, x))
        return alpha, sigma


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


class EpsilonObjective(Objective):
    """The noise itself (Ho et al. 2020, equation 14), on any process.

    In pure noise it says nothing of the data, so that sampling on a continuous process begins at
    sigma / alpha = 100, and a process of steps must end before pure noise.
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
                "zero_terminal_snr ends in pure noise, of which 'epsilon' says nothing; use 'v' or 'x0'"
            )

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def denoised_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return (x_t - sigma * output) / _positive(alpha)

    def noise_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        return output


class X0Objective(Objective):
    """The data itself, on any process (Salimans & Ho 2022, section 4).

    Where there is no noise, the estimate of the noise is 0: it tends to -sigma times the score of the data.
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
        residual = (x_t - alpha * output) / _positive(sigma)
        if isinstance(sigma, Tensor):
            return torch.where(sigma > 0, residual, 0.0)
        return residual if sigma > 0 else torch.zeros_like(residual)


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


def _ratio(space: Space, level: float) -> float:
    alpha, sigma = space.path(level)
    return sigma / alpha if alpha > 1e-12 * sigma else math.inf


def _positive(scale: Scale) -> Scale:
    return scale.clamp(min=_TINY) if isinstance(scale, Tensor) else max(scale, _TINY)


OBJECTIVES: dict[str, type[Objective]] = {
    "v": VObjective,
    "epsilon": EpsilonObjective,
    "x0": X0Objective,
    "rectified_flow": RectifiedFlowObjective,
    "rf_denoiser": RFDenoiserObjective,
}
