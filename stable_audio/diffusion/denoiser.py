"""From a backbone to the function that samplers call, whatever objective and space the two sides use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stable_audio.diffusion.objectives import Objective
from stable_audio.diffusion.spaces import Space


@dataclass(frozen=True)
class Output:
    """What a guided backbone returns; all (b c n).

    Attributes:
        value: the output to use.
        uncond: the output of the unconditional branch, where one was computed.
    """

    value: Tensor
    uncond: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """Everything that a sampler may use; x = alpha denoised + sigma noise.

    Attributes:
        denoised, noise: the two estimates, (b c n) float32.
        uncond_noise: the noise estimate of the unconditional branch, where one was computed.
    """

    denoised: Tensor
    noise: Tensor
    uncond_noise: Tensor | None = None


class Denoise(Protocol):
    """x (b c n) float32 at one level of the sampler's space -> Prediction."""

    def __call__(self, x: Tensor, level: float) -> Prediction: ...


Predict = Callable[[Tensor, Tensor], "Output | Tensor"]
"""(x (b c n), t (b,)) -> output of the backbone."""


class Denoiser:
    """Adapts `predict`, trained for `objective`, to a sampler that works in `space`.

    Estimates of x0 and of the noise are the same in every space; only x has to be scaled, and the level
    to be matched by its ratio of noise to signal. Nothing happens when the spaces coincide.
    """

    def __init__(self, predict: Predict, objective: Objective, space: Space) -> None:
        self._predict = predict
        self._objective = objective
        self._space = space

    def __call__(self, x: Tensor, level: float) -> Prediction:
        native = self._objective.space
        if native is not self._space:
            t_value = self._space.convert(level, native)
            x = x * (native.scale(t_value) / self._space.scale(level))
            level = t_value
        t = torch.full((x.shape[0],), level, dtype=torch.float32, device=x.device)
        result = self._predict(x, t)
        output = result if isinstance(result, Output) else Output(result)
        value = output.value.to(x.dtype)
        uncond = None if output.uncond is None else output.uncond.to(x.dtype)
        return Prediction(
            denoised=self._objective.denoised(value, x, t),
            noise=self._objective.noise(value, x, t),
            uncond_noise=None if uncond is None else self._objective.noise(uncond, x, t),
        )
