"""Weight normalisation and Snake."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stable_audio.nn.snake import Snake, SnakeBeta
from stable_audio.pretransforms.activations import AntiAliased, make_activation
from stable_audio.pretransforms.conv import WNConv1d, WNConv2d, WNConvTranspose1d, fold_weight_norm

LAYERS = {
    "conv1d": (lambda: WNConv1d(3, 4, 5, padding=2), (2, 3, 11)),
    "conv2d": (lambda: WNConv2d(3, 4, 3, padding=1), (2, 3, 7, 7)),
    "transposed": (lambda: WNConvTranspose1d(3, 4, 4, stride=2, padding=1), (2, 3, 11)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_weight_norm_is_the_formula_and_folds_exactly(name: str) -> None:
    build, shape = LAYERS[name]
    layer, x = build(), torch.randn(*shape)
    assert {"weight_g", "weight_v", "bias"} == set(layer.state_dict())
    with torch.no_grad():
        layer.weight_g.mul_(1.7)
    v, axes = layer.weight_v, tuple(range(1, layer.weight_v.ndim))
    expected = layer.weight_g * v / v.square().sum(axes, keepdim=True).sqrt()
    torch.testing.assert_close(layer.effective_weight(), expected)
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(fold_weight_norm(nn.Sequential(layer))(x), before)
    assert set(layer.state_dict()) == {"weight", "bias"}
    fold_weight_norm(layer)


def test_at_start_the_normalised_weight_is_the_plain_one() -> None:
    torch.manual_seed(0)
    plain = nn.Conv1d(3, 4, 5)
    torch.manual_seed(0)
    torch.testing.assert_close(WNConv1d(3, 4, 5).effective_weight(), plain.weight)


def test_folding_keeps_frozen_weights_frozen() -> None:
    layer = WNConv1d(2, 2, 1).requires_grad_(False)
    assert not fold_weight_norm(layer).weight.requires_grad


def reference_snake_beta(x: Tensor, act: SnakeBeta) -> Tensor:
    return x + torch.sin(x * act.alpha.exp()[:, None]) ** 2 / (act.beta.exp()[:, None] + 1e-9)


@pytest.mark.parametrize("grad", [True, False])
def test_snake(grad: bool) -> None:
    act, x = SnakeBeta(3), torch.randn(2, 3, 9)
    nn.init.normal_(act.alpha)
    nn.init.normal_(act.beta)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(act(x), reference_snake_beta(x, act))
        dac, copy = Snake(3), x.clone()
        torch.testing.assert_close(dac(x), x + x.sin() ** 2)
        assert torch.equal(x, copy)


def test_anti_aliasing_removes_what_the_activation_adds_above_the_band() -> None:
    # cos^2 of a tone at 0.4 of the rate lies at 0.8, which aliases to 0.2 without the detour.
    tone = torch.cos(2 * torch.pi * 0.4 * torch.arange(400))[None, None]

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    def level(y: Tensor) -> float:
        return torch.fft.rfft(y[0, 0, 40:360] * torch.hann_window(320))[64].abs().item()

    assert level(AntiAliased(Square())(tone)) < 0.5 * level(Square()(tone))


def test_activation_names() -> None:
    assert isinstance(make_activation(2, use_snake=False), nn.ELU)
    assert set(make_activation(2, use_snake=True, antialias=True).state_dict()) == {
        "act.alpha",
        "act.beta",
        "upsample.filter",
        "downsample.lowpass.filter",
    }
