"""What the backbone predicts from x_t = alpha(t) x0 + sigma(t) noise; t in [0, 1], 0 = data, 1 = noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from stable_audio.diffusion.processes import Process
from stable_audio.diffusion.spaces import Space

DemoSchedule = Literal["linear", "logsnr"]
Scale = float | Tensor
"""alpha or sigma: a number, or a tensor that broadcasts over x."""

Network = Callable[[Tensor, Tensor], Tensor]
"""(x (b c n), t (b,)) -> output (b c n) of a backbone with the conditioning of the batch."""

_TINY = 1e-6  # lower limit of alpha and sigma as divisors


def broadcast_like(values: Tensor, x: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, ...) with the rank of x; scalars stay scalars."""
    return values.reshape(-1, *([1] * (x.ndim - 1))) if values.ndim else values


@dataclass(frozen=True)
class TrainingPoint:
    """The inputs of an objective in a training step.

    Attributes:
        x0: clean latents (b c n).
        noise: noise (b c n).
        t: time of each item (b,).
        network: the backbone in training, which may be called several times.
        uniform: returns draws (b,) in [0, 1), for example for a second time, different at every call. In
            validation an item always gets the same draws.
        teacher: the backbone of the teacher; None if the objective needs none.
    """

    x0: Tensor
    noise: Tensor
    t: Tensor
    network: Network
    uniform: Callable[[], Tensor]
    teacher: Network | None = None


class Compared(NamedTuple):
    """The inputs of the losses: `output`, that of the backbone for `x_t`, and its `target`."""

    x_t: Tensor
    output: Tensor
    target: Tensor


class Objective:
    """Base of the objectives. t is (b,) or a scalar tensor; x0, noise, x_t and output are (b c n).

    Args:
        process: the process that sets the noise at each t; None uses `default_process`.

    Attributes:
        name: its name in configs.
        space: the space of the levels of the process.
        ratios: lowest and highest sigma / alpha at which the backbone may be evaluated.
        spaces: spaces whose processes the objective fits.
        default_process: process used when the caller names none.
        max_ratio: largest sigma / alpha at which sampling begins; for continuous processes.
        default_sampler: sampler for generation when the caller names none.
        default_steps: sampling steps when the caller names none.
        default_cfg_scale: guidance weight when the caller names none.
        demo_sampler: sampler of demos during training.
        demo_schedule: schedule of demos during training, on continuous processes.
        needs_teacher: training needs a teacher in the same latents.
        predicts_flow: the output is the velocity noise - x0 along straight paths.
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
    needs_teacher: ClassVar[bool] = False
    predicts_flow: ClassVar[bool] = False

    def __init__(self, *, process: Process | None = None) -> None:
        self.process = process if process is not None else self.default_process()
        if self.process.space not in self.spaces:
            raise ValueError(
                f"'{self.name}' is defined for processes of the space "
                f"{' or '.join(s.name for s in self.spaces)}, found one of {self.process.space.name}"
            )
        self.space = self.process.space
        low, high = (_ratio(self.space, v) for v in (self.process.min_level, self.process.max_level))
        self.ratios = low, high if self.process.steps is not None else min(high, self.max_ratio)

    @property
    def usual_steps(self) -> int:
        """`default_steps`, or the number of steps of a process that has fewer."""
        return min(self.default_steps, self.process.steps or self.default_steps)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scale at t, in the shape of t."""
        return self.process.alpha_sigma(t)

    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma noise."""
        alpha, sigma = self._scales(x0, t)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The target of the backbone's output for noisy(x0, noise, t)."""
        raise NotImplementedError

    def compare(self, point: TrainingPoint) -> Compared:
        """Run the network at one point, and compute the target of its output there.

        Objectives that need more than x0, noise and t override this: to call the network at a second time, to
        take its derivative (`stable_audio.diffusion.derivative`) or to call a teacher.
        """
        x_t = self.noisy(point.x0, point.noise, point.t)
        return Compared(x_t, point.network(x_t, point.t), self.target(point.x0, point.noise, point.t))

    def denoised(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of x0 by `output`."""
        return self.denoised_at(output, x_t, *self._scales(x_t, t))

    def noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate of the noise by `output`; x_t = alpha denoised + sigma noise."""
        return self.noise_at(output, x_t, *self._scales(x_t, t))

    def denoised_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """Like `denoised`, for scales instead of a time, because samplers may evaluate between two steps."""
        raise NotImplementedError

    def noise_at(self, output: Tensor, x_t: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
        """Like `noise`, for scales instead of a time."""
        raise NotImplementedError

    def _scales(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.process.alpha_sigma(broadcast_like(t, x))


def _ratio(space: Space, level: float) -> float:
    alpha, sigma = space.path(level)
    return sigma / alpha if alpha > 1e-12 * sigma else math.inf


def positive(scale: Scale) -> Scale:
    """A scale as a divisor: limited to at least a tiny positive number."""
    return scale.clamp(min=_TINY) if isinstance(scale, Tensor) else max(scale, _TINY)
