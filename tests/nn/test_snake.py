"""The snake activation: value, gradients, and what it keeps for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from stable_audio.nn.snake import Snake, SnakeBeta, snake


def literal(x: Tensor, frequency: Tensor, inverse_amplitude: Tensor) -> Tensor:
    return x + inverse_amplitude * torch.sin(frequency * x) ** 2


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(2, 4, 9, generator=generator, dtype=dtype)
    coefficients = [torch.rand(shape, generator=generator, dtype=dtype) + 0.5 for _ in range(2)]
    return [v.requires_grad_() for v in (x, *coefficients)]


@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 1)])
def test_value_and_gradients(shape: tuple[int, ...]) -> None:
    x, frequency, amplitude = inputs(shape)
    torch.testing.assert_close(snake(x, frequency, amplitude), literal(x, frequency, amplitude))
    assert gradcheck(snake, (x, frequency, amplitude))
    assert gradgradcheck(snake, (x, frequency, amplitude))
    wanted = torch.autograd.grad(literal(x, frequency, amplitude).square().sum(), [x, frequency, amplitude])
    found = torch.autograd.grad(snake(x, frequency, amplitude).square().sum(), [x, frequency, amplitude])
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_gradients_of_one_input_alone(trained: int) -> None:
    values = inputs((4, 1))
    for i, value in enumerate(values):
        value.requires_grad_(i == trained)
    (wanted,) = torch.autograd.grad(literal(*values).square().sum(), values[trained])
    (found,) = torch.autograd.grad(snake(*values).square().sum(), values[trained])
    torch.testing.assert_close(found, wanted)


def test_the_input_stays_as_it_was() -> None:
    x, frequency, amplitude = inputs((4, 1))
    before = [v.detach().clone() for v in (x, frequency, amplitude)]
    y = snake(x, frequency, amplitude)
    grad = torch.ones_like(y)
    y.backward(grad)
    assert all(torch.equal(a, b) for a, b in zip((x, frequency, amplitude), before))
    assert torch.equal(grad, torch.ones_like(y))


@pytest.mark.parametrize("module", [SnakeBeta(4), Snake(4)])
def test_nothing_as_large_as_the_input_is_kept_besides_it(module: nn.Module) -> None:
    x = torch.randn(2, 4, 100, requires_grad=True)
    kept: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        module(x)
    large = [value for value in kept if value.numel() >= x.numel()]
    assert len(large) == 1
    assert large[0].data_ptr() == x.data_ptr()


def test_half_precision_inputs_keep_their_dtype_rules() -> None:
    """Coefficients are float32 under autocast: the phase is, too, and the gradient has the dtype of x."""
    x, frequency, amplitude = inputs((4, 1), torch.float32)
    half = x.detach().bfloat16().requires_grad_()
    y = snake(half, frequency, amplitude)
    assert y.dtype == literal(half, frequency, amplitude).dtype == torch.float32
    torch.testing.assert_close(y, literal(half.float(), frequency, amplitude))
    y.sum().backward()
    assert half.grad.dtype == torch.bfloat16
    assert frequency.grad.dtype == torch.float32
