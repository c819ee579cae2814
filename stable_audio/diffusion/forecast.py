"""Fewer evaluations of the network: between them its output is extrapolated along t.

Outputs of neighbouring steps lie close to a smooth curve. TaylorSeer (Liu et al. 2025, "From Reusing to
Forecasting: Accelerating Diffusion Models with TaylorSeers") extrapolates the features of every block by
their differences over past steps; here it is the output alone, which every backbone has, and which needs no
memory for features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Output, Predict
from stable_audio.nn.transfer import first_value


class Forecast:
    """(x, t) -> Output: of `predict` at every `every`-th call, else extrapolated from its last outputs.

    A polynomial of degree `order` goes through the last `order + 1` outputs; until there are as many, every
    call is one of `predict`. A t that rises is another walk, which starts anew.

    Args:
        predict: guided or plain output of a backbone.
        every: one call in this many is one of `predict`.
        order: degree; 0 repeats the last output.
    """

    def __init__(self, predict: Predict, *, every: int, order: int = 1) -> None:
        self._predict, self._every, self._order = predict, every, order
        self._restart()

    def _restart(self) -> None:
        self._outputs: list[Output] = []
        self._times: list[Tensor] = []
        self._skipped = 0
        self._latest = float("inf")

    def __call__(self, x: Tensor, t: Tensor) -> Output:
        """x (b c n), t (b,) -> Output."""
        now = first_value(t)
        if now > self._latest:
            self._restart()
        if len(self._outputs) > self._order and self._skipped < self._every - 1 and now < self._latest:
            self._skipped += 1
            return self._extrapolated(t)
        result = self._predict(x, t)
        output = result if isinstance(result, Output) else Output(result)
        if now == self._latest:  # as second-order samplers ask: two outputs at one t span no curve
            self._outputs.pop()
            self._times.pop()
        self._outputs = [*self._outputs, output][-self._order - 1 :]
        self._times = [*self._times, t][-self._order - 1 :]
        self._skipped, self._latest = 0, now
        return output

    def _extrapolated(self, t: Tensor) -> Output:
        weights = [self._weight(index, t) for index in range(len(self._times))]
        unconds = [output.uncond for output in self._outputs]
        return Output(
            _sum(weights, [output.value for output in self._outputs]),
            None if any(u is None for u in unconds) else _sum(weights, unconds),  # type: ignore[arg-type]
        )

    def _weight(self, index: int, t: Tensor) -> Tensor:
        """Lagrange's basis polynomial of the output with this index, at t (b,)."""
        others = [time for i, time in enumerate(self._times) if i != index]
        factors = [(t - other) / (self._times[index] - other) for other in others]
        return torch.stack(factors).prod(0) if factors else torch.ones_like(t)


def _sum(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    shape = (-1, *[1] * (values[0].ndim - 1))
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + weight.to(value.dtype).view(shape) * value
    return total
