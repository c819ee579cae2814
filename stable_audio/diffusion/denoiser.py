"""Adapt a backbone to the function that samplers call, for any objective and any space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stable_audio.diffusion.objectives import Objective, Scale
from stable_audio.diffusion.spaces import Level, Space
from stable_audio.nn.transfer import filled, values_like


@dataclass(frozen=True)
class Output:
    """The output of a guided backbone; all tensors (b c n).

    Attributes:
        value: the output to use.
        uncond: the output of the unconditional branch, if it was computed.
    """

    value: Tensor
    uncond: Tensor | None = None


class Prediction:
    """Estimates for a sampler, computed on demand; x = alpha denoised + sigma noise.

    Args:
        objective: objective that defines `output`.
        output: output of the guided backbone, (b c n) in the dtype of x.
        x: state (b c n), in the space of the objective.
        alpha: scale of the data in x.
        sigma: scale of the noise in x.
    """

    def __init__(self, objective: Objective, output: Output, x: Tensor, alpha: Scale, sigma: Scale) -> None:
        self._objective, self._output = objective, output
        self._at = (x, alpha, sigma)

    @cached_property
    def denoised(self) -> Tensor:
        """The estimate of x0."""
        return self._objective.denoised_at(self._output.value, *self._at)

    @cached_property
    def noise(self) -> Tensor:
        """The estimate of the noise."""
        return self._objective.noise_at(self._output.value, *self._at)

    @cached_property
    def uncond_noise(self) -> Tensor | None:
        """The noise estimate of the unconditional branch, if it was computed."""
        uncond = self._output.uncond
        return None if uncond is None else self._objective.noise_at(uncond, *self._at)


class Denoise(Protocol):
    """x (b c n) float32 at one level of the sampler's space, or one for each item -> Prediction."""

    def __call__(self, x: Tensor, level: Level) -> Prediction: ...


Predict = Callable[[Tensor, Tensor], Output | Tensor]
"""(x (b c n), t (b,)) -> output of the backbone."""


class _LevelPoint(NamedTuple):
    """A level of the sampler as the backbone knows it.

    Attributes:
        time: the t of its process.
        alpha: scale of the data there.
        sigma: scale of the noise there.
        factor: what x is multiplied by on its way from the sampler's space.
    """

    time: float
    alpha: float
    sigma: float
    factor: float


class Denoiser:
    """Adapts `predict`, trained for `objective`, to a sampler that works in `space`.

    Estimates of x0 and of the noise are the same in every space; only x is scaled, and the level with the
    same ratio of noise to signal is used. If the spaces coincide, x is unchanged. The backbone
    receives the t of its process, while the estimates use the level itself, so that a sampler may evaluate
    between two steps or beyond the last one.
    """

    def __init__(self, predict: Predict, objective: Objective, space: Space) -> None:
        self._predict = predict
        self._objective = objective
        self._space, self._native = space, objective.space

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        if isinstance(level, Tensor):
            points = [self._point(value) for value in level.tolist()]
            times = [point.time for point in points]
            alpha, sigma, factor = (
                values_like([getattr(point, name) for point in points], x).view(-1, *[1] * (x.ndim - 1))
                for name in ("alpha", "sigma", "factor")
            )
            x, scales = (x if self._native is self._space else x * factor), (alpha, sigma)
            t = values_like(times, x, torch.float32)
            return self._predicted(x, t, scales)
        point = self._point(level)
        x = x if self._native is self._space else x * point.factor
        t = filled(point.time, x.shape[0], x, torch.float32)
        return self._predicted(x, t, (point.alpha, point.sigma))

    def _point(self, level: float) -> _LevelPoint:
        native, factor = self._native, 1.0
        if native is not self._space:
            native_level = self._space.convert(level, native)
            factor = native.scale(native_level) / self._space.scale(level)
            level = native_level
        return _LevelPoint(self._objective.process.time(level), *native.path(level), factor)

    def _predicted(self, x: Tensor, t: Tensor, scales: tuple[Scale, Scale]) -> Prediction:
        result = self._predict(x, t)
        output = result if isinstance(result, Output) else Output(result)
        uncond = None if output.uncond is None else output.uncond.to(x.dtype)
        return Prediction(self._objective, Output(output.value.to(x.dtype), uncond), x, *scales)
