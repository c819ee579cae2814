"""Deterministic samplers in the VE space, where dx / dsigma is the noise estimate (Karras et al. 2022)."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.polynomial import Polynomial
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoise
from stable_audio.diffusion.noise import Noise
from stable_audio.diffusion.samplers.base import SamplerCallback, intervals

MAX_GAIN = 1e4
"""Largest sum of weights over the length of a step; times the rounding of float32 it stays below 1e-3."""


def heun(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """Karras et al., algorithm 1: trapezoidal steps; the step to 0 is an Euler step. Second order."""
    for i, sigma, sigma_next in intervals(schedule):
        prediction = denoise(x, sigma)
        if callback is not None:
            callback(i, x, sigma, prediction.denoised)
        step = sigma_next - sigma
        slope = prediction.noise
        if sigma_next > 0:
            slope = (slope + denoise(x + step * slope, sigma_next).noise) / 2
        x = x + step * slope
    return x


def dpm_2(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """Midpoint steps with the midpoint in log sigma (as in DPM-Solver-2). Second order."""
    for i, sigma, sigma_next in intervals(schedule):
        prediction = denoise(x, sigma)
        if callback is not None:
            callback(i, x, sigma, prediction.denoised)
        slope = prediction.noise
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            slope = denoise(x + (middle - sigma) * slope, middle).noise
        x = x + (sigma_next - sigma) * slope
    return x


def lms(
    denoise: Denoise,
    x: Tensor,
    schedule: Tensor,
    *,
    noise: Noise,
    callback: SamplerCallback | None = None,
    order: int = 4,
) -> Tensor:
    """Linear multistep (Adams-Bashforth on the uneven grid of sigmas); one evaluation per step.

    A step much longer than those before it, such as the last one of a schedule with dense levels at the end,
    has a lower order: extrapolation would magnify the rounding errors of the slopes.
    """
    levels = schedule.tolist()
    slopes: deque[Tensor] = deque(maxlen=order)
    for i, sigma, sigma_next in intervals(schedule):
        prediction = denoise(x, sigma)
        if callback is not None:
            callback(i, x, sigma, prediction.denoised)
        slopes.append(prediction.noise)
        nodes = levels[i + 1 - len(slopes) : i + 1]
        weights = stable_weights(nodes, sigma, sigma_next)
        for weight, slope in zip(weights, list(slopes)[-len(weights) :]):
            x = x + weight * slope
    return x


def stable_weights(nodes: list[float], start: float, end: float) -> list[float]:
    """`multistep_weights` of as many of the last nodes as possible with a gain of at most MAX_GAIN."""
    for first in range(len(nodes) - 1):
        weights = multistep_weights(nodes[first:], start, end)
        if sum(map(abs, weights)) <= MAX_GAIN * abs(end - start):
            return weights
    return multistep_weights(nodes[-1:], start, end)


def multistep_weights(nodes: list[float], start: float, end: float) -> list[float]:
    """Integrals from start to end of the Lagrange polynomials through `nodes`; exact, not by quadrature."""
    weights = []
    for j, node in enumerate(nodes):
        roots = [n for k, n in enumerate(nodes) if k != j]
        # Centred on the step, because the sigmas of one window differ by orders of magnitude.
        basis = Polynomial.fromroots(np.array(roots) - start) if roots else Polynomial([1.0])
        antiderivative = (basis / math.prod(node - n for n in roots)).integ()
        weights.append(float(antiderivative(end - start) - antiderivative(0.0)))
    return weights
