"""UniPC (Zhao et al. 2023): a multistep predictor whose step is corrected by the next evaluation.

With lambda = log(alpha / sigma), h = lambda' - lambda and the denoised estimate D,

    x' = (sigma' / sigma) x + alpha' (1 - e^-h) D_0 + alpha' B(h) sum_k a_k (D_k - D_0) / r_k

where D_k was estimated at lambda + r_k h. The weights a_k match the expansion of the exact solution, and
B(h) = 1 - e^-h is the paper's B_2 for estimates of the data.
The predictor knows earlier estimates; the corrector repeats its step once D at the new point (r = 1) is
there. That estimate is the one of the next step, so that both together take one evaluation per step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, intervals
from stable_audio.diffusion.spaces import FLOW, VE, Space

Past = Sequence[tuple[float, Tensor]]
"""(lambda, denoised) of earlier points, the latest first."""


def unipc(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    order: int = 2,
    corrector: bool = True,
) -> Tensor:
    """On the straight path of flows; starts from pure noise. See `unipc_steps`."""
    return unipc_steps(denoise, x, schedule, FLOW, callback, order, corrector)


def unipc_ve(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    order: int = 2,
    corrector: bool = True,
) -> Tensor:
    """In the VE space, where lambda = -log sigma. See `unipc_steps`."""
    return unipc_steps(denoise, x, schedule, VE, callback, order, corrector)


def unipc_steps(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    space: Space,
    callback: SamplerCallback | None,
    order: int,
    corrector: bool,
) -> Tensor:
    """UniPC in any space, deterministic.

    The order rises from 1 at the start and falls to 1 towards the data, as in the paper; the step
    to the data is the denoised estimate itself.

    Args:
        order: of the predictor, 1 or above; the corrector adds one, so that 2 converges with order 3.
        corrector: False leaves the predictor alone: for order 2 that is DPM-Solver++(2M).
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, found {order}")
    past: deque[tuple[float, Tensor]] = deque(maxlen=order)
    before: tuple[float, Tensor, int] | None = None  # level, x and order of the last step
    to_the_data = len(schedule) - 1 if schedule[-1] == 0 else math.inf
    for i, level, next_level in intervals(schedule):
        denoised = denoise(x, level).denoised
        if callback is not None:
            callback(i, x, level, denoised)
        if next_level == 0:
            return denoised
        if corrector and before is not None:
            x = unipc_step(space, before[1], before[0], level, list(past)[: before[2]], denoised)
        point = _lambda(space, level)
        past.appendleft((point, denoised))
        if len(past) > 1 and math.isinf(past[-1][0]):
            past.pop()  # pure noise, which no polynomial in lambda goes through
        used = int(min(order, len(past), to_the_data - i))
        before = (level, x, used)
        x = unipc_step(space, x, level, next_level, list(past)[:used], None)
    return x


def unipc_step(
    space: Space, x: Tensor, level: float, next_level: float, past: Past, ahead: Tensor | None
) -> Tensor:
    """One step from `level`, where the latest of `past` was estimated; `ahead` is the estimate at its end."""
    sigma = space.path(level)[1]
    next_alpha, next_sigma = space.path(next_level)
    start, end, current = _lambda(space, level), _lambda(space, next_level), past[0][1]
    h = end - start
    moved = (next_sigma / sigma) * x - next_alpha * math.expm1(-h) * current
    if math.isinf(h):
        return moved
    others = [((point - start) / h, estimate) for point, estimate in past[1:]]
    others += [] if ahead is None else [(1.0, ahead)]
    for (ratio, estimate), a in zip(others, _weights(tuple(r for r, _ in others), h)):
        moved = moved - next_alpha * math.expm1(-h) * (a / ratio) * (estimate - current)
    return moved


def _weights(ratios: tuple[float, ...], h: float) -> list[float]:
    """a_k of the paper's equation 5 for B_2; one half if there is a single one, as its proposition says."""
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    gain, factorial, phi = math.expm1(-h), 1.0, math.expm1(-h) / -h - 1
    right = []
    for n in range(1, len(ratios) + 1):
        factorial *= n
        right.append(phi * factorial / gain)
        phi = phi / -h - 1 / (factorial * (n + 1))
    matrix = np.vander(np.array(ratios), increasing=True).T
    return [float(a) for a in np.linalg.solve(matrix, np.array(right))]


def _lambda(space: Space, level: float) -> float:
    alpha, sigma = space.path(level)
    return math.log(alpha / sigma) if alpha > 0 else -math.inf
