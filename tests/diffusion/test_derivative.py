"""The derivative of a network along a path, against closed forms and differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stable_audio.backbones import UNCOND_BACKBONES
from stable_audio.diffusion.derivative import derivative
from stable_audio.diffusion.objectives import broadcast_like
from stable_audio.types import Conditioning
from tests import tiny


def test_it_is_the_total_derivative() -> None:
    """d/dt of x^2 sin(t) is 2 x x' sin(t) + x^2 cos(t)."""
    x, v = torch.randn(2, 3, 2, 5, dtype=torch.float64)
    t = torch.tensor([0.1, 0.7, 1.0], dtype=torch.float64)
    wide = broadcast_like(t, x)
    along = derivative(lambda x, t: x.square() * broadcast_like(t, x).sin(), x, t, v)
    assert torch.allclose(along, 2 * x * v * wide.sin() + x.square() * wide.cos(), rtol=1e-12, atol=1e-12)


def test_the_mean_flow_of_a_gaussian_is_what_its_identity_asks_for() -> None:
    """Of data N(0, 1) the velocity is v = (2t - 1) x / s^2 with s^2 = (1 - t)^2 + t^2, and its flow ends at
    x / s; so u = (1 - 1/s) x / t, and u = v - t du/dt."""

    def u(x: Tensor, t: Tensor) -> Tensor:
        wide = broadcast_like(t, x)
        return (1 - ((1 - wide) ** 2 + wide**2) ** -0.5) * x / wide

    t = torch.linspace(0.1, 1.0, 7, dtype=torch.float64)
    x, wide = torch.randn(7, 2, 4, dtype=torch.float64), t.view(-1, 1, 1)
    v = (2 * wide - 1) / ((1 - wide) ** 2 + wide**2) * x
    assert torch.allclose(u(x, t), v - wide * derivative(u, x, t, v), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", UNCOND_BACKBONES)
def test_backbones_have_one(name: str) -> None:
    torch.manual_seed(0)
    backbone = UNCOND_BACKBONES[name](**tiny.UNCOND_BACKBONES[name]).double().eval()
    with torch.no_grad():  # layers that start at zero would hide the rest
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    cond = Conditioning()
    x, v, t = *torch.randn(2, 1, 2, 8, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return backbone(x, t, cond)

    # Times are embedded in float32, by sines of frequencies f up to 1000. A central difference cuts off
    # (f h)^2 / 6 = 6e-4, and rounding of f t adds 3e-5 / (f h) = 5e-4; t and h, powers of two, are exact.
    h = 2.0**-14
    difference = (network(x + h * v, t + h) - network(x - h * v, t - h)) / (2 * h)
    along = derivative(network, x, t, v)
    assert not along.requires_grad
    assert along.norm() > 1e-3
    assert (along - difference).norm() < 1e-2 * along.norm()
