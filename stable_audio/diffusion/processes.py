"""Diffusion processes, which set the noise at time t: x_t = alpha(t) x0 + sigma(t) noise, t in [0, 1].

`cosine` and `flow` are continuous. `ddpm` has N steps, counted 0 .. N - 1 as in Ho et al. 2020; step i is
t = i / (N - 1). Each process belongs to one of the spaces (see spaces.py), which gives alpha and sigma for a
level; the process maps t to levels.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from stable_audio.diffusion.spaces import FLOW, VP, Space


class Process:
    """Base of the processes; in a continuous one, t is the level of its space.

    Attributes:
        space: the space of its levels.
        steps: number of discrete steps; None = continuous.
        min_level: lowest level in training.
        max_level: highest level in training.
    """

    space: Space
    steps: int | None = None
    min_level: float = 0.0
    max_level: float = 1.0

    @property
    def ends_in_noise(self) -> bool:
        """Whether x is pure noise at t = 1."""
        return self.max_level >= self.space.max_level

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise scale at t, in the shape of t."""
        raise NotImplementedError

    def grid(self, t: Tensor) -> Tensor:
        """Round times in [0, 1] to those of the process; uniform t gives every step the same probability."""
        return t

    def time(self, level: float) -> float:
        """The t of a level of `space`; a level beyond an end has the t of that end."""
        return level

    def level(self, t: float) -> float:
        """The level of `space` at t."""
        return t


class CosineProcess(Process):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Salimans & Ho 2022)."""

    space = VP

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)


class FlowProcess(Process):
    """alpha = 1 - t, sigma = t (Lipman et al. 2022)."""

    space = FLOW

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t


BetaSchedule = Literal["linear", "scaled_linear", "cosine"]


class DDPMProcess(Process):
    """N steps, of which step i replaces a share beta_i of the variance by noise (Ho et al. 2020).

    alpha_i^2 is the product of 1 - beta_j over j <= i, and sigma_i^2 = 1 - alpha_i^2.
    Between two steps, which samplers may visit, the angle atan2(sigma, alpha) is linear in t.

    Args:
        steps: N.
        beta_schedule: `linear`: from beta_start to beta_end (Ho et al. 2020); `scaled_linear`: the square
            roots are linear (Rombach et al. 2022); `cosine`: alpha_i^2 follows a squared cosine (Nichol &
            Dhariwal 2021, equation 17), without beta_start and beta_end.
        beta_start: variance that the first step adds.
        beta_end: variance that the last step adds.
        zero_terminal_snr: shift and scale alpha so that the last step is pure noise and the first is
            unchanged (Lin et al. 2023, algorithm 1). Needs an objective other than epsilon.
    """

    space = VP

    def __init__(
        self,
        *,
        steps: int = 1000,
        beta_schedule: BetaSchedule = "linear",
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        zero_terminal_snr: bool = False,
    ) -> None:
        if steps < 2:
            raise ValueError(f"steps must be at least 2, found {steps}")
        if steps > MOST_STEPS:
            raise ValueError(f"steps must be at most {MOST_STEPS}, found {steps}")
        if beta_schedule not in BETAS:
            raise ValueError(f"beta_schedule must be one of {', '.join(BETAS)}, found '{beta_schedule}'")
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f"0 < beta_start <= beta_end < 1 is needed, found beta_start {beta_start}, "
                f"beta_end {beta_end}"
            )
        self.steps: int = steps
        alpha = (1 - BETAS[beta_schedule](steps, beta_start, beta_end)).cumprod(0).sqrt()
        if zero_terminal_snr:
            alpha = (alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))
        self.alphas = alpha
        """alpha of every step, float64; what is published as alphas_cumprod is its square."""
        self._angles = torch.atan2((1 - alpha.square()).sqrt(), alpha) * 2 / math.pi
        self._levels: list[float] = self._angles.tolist()
        self._angles_on: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.min_level, self.max_level = self._levels[0], self._levels[-1]

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angles = self._table(t)
        position = (t * (self.steps - 1)).clamp(0, self.steps - 1)
        low = position.floor().clamp(max=self.steps - 2)
        index = low.long()
        angle = torch.lerp(angles[index], angles[index + 1], position - low) * (math.pi / 2)
        return torch.cos(angle), torch.sin(angle)

    def grid(self, t: Tensor) -> Tensor:
        step = (t * self.steps).floor().clamp(0, self.steps - 1)
        return step / (self.steps - 1)

    def time(self, level: float) -> float:
        if level <= self.min_level:
            return 0.0
        if level >= self.max_level:
            return 1.0
        i = bisect_right(self._levels, level) - 1
        low, high = self._levels[i], self._levels[i + 1]
        return (i + (level - low) / (high - low)) / (self.steps - 1)

    def level(self, t: float) -> float:
        position = min(max(t, 0.0), 1.0) * (self.steps - 1)
        i = min(int(position), self.steps - 2)
        return self._levels[i] + (position - i) * (self._levels[i + 1] - self._levels[i])

    def _table(self, like: Tensor) -> Tensor:
        """The angles on the device of `like`, cached, because a copy makes the host wait for the device."""
        key = (like.device, like.dtype)
        if key not in self._angles_on:
            self._angles_on[key] = self._angles.to(*key)
        return self._angles_on[key]


MOST_STEPS = 1_000_000
"""A thousand times the published number; a process has tables with an entry per step."""


def linear_betas(steps: int, start: float, end: float) -> Tensor:
    """Variances in equal steps."""
    return torch.linspace(start, end, steps, dtype=torch.float64, device="cpu")


def scaled_linear_betas(steps: int, start: float, end: float) -> Tensor:
    """Deviations in equal steps."""
    low, high = math.sqrt(start), math.sqrt(end)
    return torch.linspace(low, high, steps, dtype=torch.float64, device="cpu").square()


def cosine_betas(steps: int, start: float, end: float) -> Tensor:
    """1 - f(i + 1) / f(i), at most 0.999, with f(i) = cos^2(pi / 2 (i / N + 0.008) / 1.008)."""
    i = torch.arange(steps + 1, dtype=torch.float64, device="cpu")
    f = torch.cos((i / steps + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


BETAS: dict[str, Callable[[int, float, float], Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
}

PROCESSES: dict[str, type[Process]] = {
    "cosine": CosineProcess,
    "flow": FlowProcess,
    "ddpm": DDPMProcess,
}
