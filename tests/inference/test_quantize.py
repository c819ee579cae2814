from __future__ import annotations

import copy
import io
import sys
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.backbones import BACKBONES
from stable_audio.backbones.adp.conv import PaddedConv1d
from stable_audio.inference.quantize import quantized, weight_bytes
from stable_audio.types import Conditioning


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(96, 64),
        nn.Linear(96, 64, bias=False),
        nn.Conv1d(96, 64, 5, padding=2),
        nn.Conv1d(96, 64, 4, stride=2, padding=1),
        nn.Conv1d(96, 64, 3, dilation=2, padding="same"),
        PaddedConv1d(96, 64, 5, stride=2),
        nn.Conv2d(96, 64, (3, 5), stride=(1, 2), padding=(1, 2)),
        nn.Conv2d(96, 64, 1, bias=False),
    ],
)
@torch.no_grad()
def test_a_layer_is_close_to_the_original(layer: nn.Module) -> None:
    torch.manual_seed(0)
    shapes = {nn.Linear: (2, 7, 96), nn.Conv1d: (2, 96, 20), nn.Conv2d: (2, 96, 8, 10)}
    (shape,) = [shapes[kind] for kind in shapes if isinstance(layer, kind)]
    x = torch.randn(shape)
    small = quantized(nn.Sequential(layer))
    expected = layer(x)
    assert small(x).shape == expected.shape
    # 8 bits for each factor: half a step of 2/255 of the range, a few percent of the deviation.
    assert relative_error(small(x), expected) < 0.05
    assert relative_error(small[0].weight, layer.weight) < 0.01
    assert weight_bytes(small) < 0.3 * weight_bytes(nn.Sequential(layer))


def test_small_grouped_and_transposed_layers_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(64, 64, 9, groups=2), nn.ConvTranspose1d(64, 64, 4))
    assert [type(m) for m in quantized(module)] == [type(m) for m in module]


BACKBONES_TO_SHRINK: dict[str, dict[str, Any]] = {
    "unet": {"io_channels": 4, "channels": 32, "multipliers": [1, 2], "attention": [False, True]},
    "dit": {"io_channels": 4, "embed_dim": 64, "depth": 2, "num_heads": 2},
}


@pytest.mark.parametrize("name", sorted(BACKBONES_TO_SHRINK))
@torch.no_grad()
def test_backbones_shrink_and_the_original_is_untouched(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES[name](**BACKBONES_TO_SHRINK[name]).eval()
    for parameter in backbone.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    before = copy.deepcopy(backbone.state_dict())
    x, t, cond = torch.randn(2, 4, 32), torch.rand(2), Conditioning()
    small = quantized(backbone)
    assert relative_error(small(x, t, cond), backbone(x, t, cond)) < 0.1
    assert weight_bytes(small) < 0.4 * weight_bytes(backbone)
    after = backbone.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@torch.no_grad()
def test_int8_weights_are_saved_and_loaded() -> None:
    torch.manual_seed(0)
    one, other = (quantized(nn.Sequential(nn.Linear(96, 64))) for _ in range(2))
    x = torch.randn(3, 96)
    one(x)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(one(x), other(x))
    assert torch.equal(copy.deepcopy(one)(x), one(x))


def test_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="found 'int2'"):
        quantized(nn.Linear(2, 2), method="int2")  # type: ignore[arg-type]


@torch.no_grad()
def test_4_bits_err_by_half_a_step_of_each_group() -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    layer, x = nn.Linear(96, 64), torch.randn(3, 96)
    held = quantized(nn.Sequential(layer), method="int4")
    weight = held[0].weight
    groups = layer.weight.unflatten(1, (-1, 32))
    step = (groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)) / 15
    error = (weight.unflatten(1, (-1, 32)) - groups).abs()
    # Half a step for the value, and half for the zero of the group, which is one of the values.
    assert (error <= 1.001 * step[..., None]).all()
    torch.testing.assert_close(held(x), x @ weight.T + layer.bias)
    # 4 bits and two numbers of 32 for every 32 weights.
    assert weight_bytes(held) == 64 * 96 * (0.5 + 8 / 32) + 64 * 4


@torch.no_grad()
def test_a_backbone_in_4_bits_compiles_whole() -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    backbone = BACKBONES["dit"](**BACKBONES_TO_SHRINK["dit"]).eval()
    for parameter in backbone.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    x, t, cond = torch.randn(2, 4, 32), torch.rand(2), Conditioning()
    small = quantized(backbone, method="int4")
    assert weight_bytes(small) < 0.3 * weight_bytes(backbone)
    expected = small(x, t, cond)
    assert relative_error(expected, backbone(x, t, cond)) < 0.2
    small.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(small(x, t, cond), expected)


@pytest.mark.parametrize("method", ["torchao", "int4"])
def test_without_torchao_the_extra_is_named(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torchao", "torchao.quantization", "torchao.quantization.quant_primitives"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'needs torchao: pip install "stable-audio\[quantize\]"'):
        quantized(nn.Sequential(nn.Linear(96, 64)), method=method)
