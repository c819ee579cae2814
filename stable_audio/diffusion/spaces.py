"""The three parametrisations of the noise level that samplers use, and how they relate.

A point of any diffusion is x = alpha x0 + sigma noise. Spaces differ in the path (alpha, sigma) and in
its parameter, the *level*:

    VE    alpha = 1               sigma = level           level in [0, inf)   (Karras et al. 2022)
    VP    alpha = cos(pi/2 level) sigma = sin(pi/2 level) level in [0, 1]     (Salimans & Ho 2022)
    FLOW  alpha = 1 - level       sigma = level           level in [0, 1]     (Lipman et al. 2022)

Two points with the same ratio sigma / alpha differ only by a factor of x: x0 and the noise are the same.
So a sampler of one space can drive a backbone trained in another one: match the ratio, scale x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Level = float | Tensor
"""A level of all items of a batch, or (b,) float64 on the CPU with one for each."""


@dataclass(frozen=True)
class Space:
    """A path of (alpha, sigma).

    Attributes:
        path: level -> (alpha, sigma).
        level: (alpha, sigma), known up to a common factor -> level. Infinite if there is none.
        max_level: the level of pure noise.
    """

    name: str
    path: Callable[[float], tuple[float, float]]
    level: Callable[[float, float], float]
    max_level: float

    def scale(self, level: float) -> float:
        """sqrt(alpha^2 + sigma^2): the standard deviation of x for data of unit variance."""
        return math.hypot(*self.path(level))

    def convert(self, level: float, target: Space) -> float:
        """The level of `target` with the same ratio of noise to signal."""
        return level if target is self else target.level(*self.path(level))


def _vp_path(level: float) -> tuple[float, float]:
    return math.cos(level * math.pi / 2), math.sin(level * math.pi / 2)


def _ve_level(alpha: float, sigma: float) -> float:
    # cos(pi / 2) is not exactly zero in floating point; anything that small is pure noise.
    return sigma / alpha if alpha > 1e-12 * sigma else math.inf


VE = Space("ve", path=lambda level: (1.0, level), level=_ve_level, max_level=math.inf)
VP = Space("vp", path=_vp_path, level=lambda a, s: math.atan2(s, a) * 2 / math.pi, max_level=1.0)
FLOW = Space("flow", path=lambda t: (1.0 - t, t), level=lambda a, s: s / (a + s), max_level=1.0)

SPACES: dict[str, Space] = {"ve": VE, "vp": VP, "flow": FLOW}
