"""The snake activation x + a sin^2(f x) of Liu et al. 2020, whose backward pass stores only x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class SnakeBeta(nn.Module):
    """x + sin^2(e^alpha x) / (e^beta + 1e-9), one alpha and beta per channel, on (b c n).

    Liu et al. 2020 (snake), with a separate amplitude as in BigVGAN and both on a log scale.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Frequency and inverse amplitude (c 1)."""
        return self.alpha.exp()[:, None], (self.beta.exp() + 1e-9).reciprocal()[:, None]

    def forward(self, x: Tensor) -> Tensor:
        return snake(x, *self.coefficients())


class Snake(nn.Module):
    """x + sin^2(alpha x) / (alpha + 1e-9) with alpha (1 c 1), the form used by the DAC codec."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Frequency and inverse amplitude (1 c 1)."""
        return self.alpha, (self.alpha + 1e-9).reciprocal()

    def forward(self, x: Tensor) -> Tensor:
        return snake(x, *self.coefficients())


def snake(x: Tensor, frequency: Tensor, inverse_amplitude: Tensor) -> Tensor:
    """x + inverse_amplitude * sin^2(frequency * x), three passes over memory.

    Args:
        x: input (b c n).
        frequency: frequency of each channel, (c 1) or (1 c 1).
        inverse_amplitude: inverse amplitude of each channel, in the same shape.
    """
    if torch.is_grad_enabled() and any(v.requires_grad for v in (x, frequency, inverse_amplitude)):
        return _Snake.apply(x, frequency, inverse_amplitude)
    return _wave(x, frequency, inverse_amplitude)


def snake_(x: Tensor, frequency: Tensor, inverse_amplitude: Tensor) -> Tensor:
    """`snake` in place of x, for tiles that stay in the cache; never use it where gradients are recorded."""
    return x.addcmul_((x * frequency).sin_().square_(), inverse_amplitude)


def _wave(x: Tensor, frequency: Tensor, inverse_amplitude: Tensor) -> Tensor:
    return torch.addcmul(x, (x * frequency).sin_().square_(), inverse_amplitude)


class _Snake(Function):
    """Stores x alone, where automatic differentiation would store f x, its sine, its square and x.

    With w = f x: dy/dx = 1 + a f sin 2w, dy/df = a x sin 2w, dy/da = sin^2 w, all from sin w and cos w.
    """

    @staticmethod
    def forward(x: Tensor, frequency: Tensor, inverse_amplitude: Tensor) -> Tensor:
        return _wave(x, frequency, inverse_amplitude)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, frequency, amplitude = ctx.saved_tensors
        if torch.is_grad_enabled():  # for gradients of gradients
            return _gradients(grads[0], x, frequency, amplitude)
        (grad,), (to_x, to_frequency, to_amplitude) = grads, ctx.needs_input_grad
        phase = x * frequency
        sine = phase.sin()
        slope = phase.cos_().mul_(sine).mul_(grad)  # half the derivative of sin^2 by w
        return (
            torch.addcmul(grad, slope, 2 * amplitude * frequency) if to_x else None,
            slope.mul_(x).sum_to_size(frequency.shape) * (2 * amplitude) if to_frequency else None,
            sine.square_().mul_(grad).sum_to_size(amplitude.shape) if to_amplitude else None,
        )


def _gradients(grad: Tensor, x: Tensor, frequency: Tensor, amplitude: Tensor) -> tuple[Tensor, ...]:
    """The same gradients, by operations that can be differentiated again."""
    sine, cosine = torch.sin(x * frequency), torch.cos(x * frequency)
    slope = 2 * grad * sine * cosine
    return (
        grad + slope * (amplitude * frequency),
        (slope * x * amplitude).sum_to_size(frequency.shape),
        (grad * sine.square()).sum_to_size(amplitude.shape),
    )
