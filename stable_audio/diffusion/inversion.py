"""Which noise gives a sound: the sampling of a deterministic solver walked backwards."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoiser, Predict
from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.spaces import FLOW, Space


def noise_of(
    predict: Predict, x0: Tensor, *, objective: Objective, level: float, space: Space, steps: int
) -> Tensor:
    """The noise from which a deterministic sampler gets to `x0` by the same `predict`.

    The probability flow ODE from data to noise (Song et al. 2021, "Denoising diffusion implicit models",
    section 4.3), by Heun's method, two evaluations a step, in equal steps of t on straight paths. Whatever
    the network cannot have predicted of x0 ends in the noise, so that its details return when the sound is
    generated again, with another prompt too.

    Args:
        x0: (b c n).
        level: where the noise is to be used: sampling starts from alpha x0 + sigma noise there.
        space: the space of `level`.
        steps: number of steps.

    Returns:
        (b c n) float32, of about unit variance.
    """
    x0 = x0.float()
    denoise = Denoiser(predict, objective, FLOW)
    top = space.convert(level, FLOW)
    levels = torch.linspace(0, top, steps + 1, dtype=torch.float64).tolist()
    # At 0 the noise is not defined; the first level is small enough for the network to see x0 as it is.
    levels[0] = min(1e-3, levels[1] / 2)
    x = (1 - levels[0]) * x0

    def velocity(state: Tensor, at: float) -> Tensor:
        prediction = denoise(state, at)
        return prediction.noise - prediction.denoised

    for low, high in pairwise(levels):
        first = velocity(x, low)
        second = velocity(x + (high - low) * first, high)
        x = x + (high - low) / 2 * (first + second)
    return (x - (1 - top) * x0) / top
