from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stable_audio.backbones.dau1d import DAU1d
from stable_audio.backbones.dau1d.resample import CubicDownsample, CubicUpsample, cubic_kernel, reflect_pad
from stable_audio.config import load_config
from stable_audio.types import Conditioning, Slot
from tests.golden.harness import MANIFESTS

CONFIGS = Path(__file__).parents[2] / "model_configs" / "dance_diffusion"
TINY = {"io_channels": 2, "depth": 3, "n_attn_layers": 1, "channels": [8, 8, 8], "strides": [2, 2]}


def test_cubic_kernel_of_stride_two_is_the_published_one() -> None:
    half = [-0.01171875, -0.03515625, 0.11328125, 0.43359375]
    assert torch.equal(cubic_kernel(2), torch.tensor([*half, *reversed(half)]))


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 8])
def test_fixed_resampling_keeps_constants_and_lengths(stride: int) -> None:
    x = torch.full((1, 2, 6 * stride), 0.7)
    low = CubicDownsample(stride)(x)
    assert low.shape == (1, 2, 6)
    torch.testing.assert_close(low, torch.full_like(low, 0.7))
    torch.testing.assert_close(CubicUpsample(stride)(low), x)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_fixed_upsampling_passes_a_line_through(stride: int) -> None:
    """Cubic convolution reproduces polynomials of degree 1; output k sits at (k - (s - 1) / 2) / s."""
    line = torch.arange(12.0)[None, None]
    up = CubicUpsample(stride)(line)[0, 0]
    where = (torch.arange(12.0 * stride) - (stride - 1) / 2) / stride
    inner = slice(3 * stride, -3 * stride)
    torch.testing.assert_close(up[inner], where[inner], atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("amount", [0, 2, 4, 7])
def test_reflect_pad_equals_numpy_at_every_length(n: int, amount: int) -> None:
    x = torch.arange(float(n))[None, None]
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (amount, amount)), mode="reflect" if n > 1 else "edge")
    assert np.array_equal(reflect_pad(x, amount).numpy(), expected)


@pytest.mark.parametrize("name", ["base", "base_16k", "base_44k", "large"])
def test_published_model_has_the_same_keys_and_shapes(name: str) -> None:
    manifest = json.loads((MANIFESTS / f"dance_diffusion_{name}.json").read_text())
    with torch.device("meta"):
        backbone = DAU1d(**manifest["config"]["model"]["config"])
    found = {"model." + k: list(v.shape) for k, v in backbone.state_dict().items()}
    assert found == manifest["shapes"]
    assert sum(p.numel() for p in backbone.parameters()) == manifest["n_params"]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("strides", [[2, 2], [3, 4], [5, 1]])
def test_output_has_the_shape_of_the_input(strides: list[int], learned: bool) -> None:
    backbone = DAU1d(**{**TINY, "strides": strides, "learned_resample": learned})
    assert backbone.length_multiple == strides[0] * strides[1]
    x = torch.randn(2, 2, 3 * backbone.length_multiple)
    assert backbone(x, torch.rand(2), Conditioning()).shape == x.shape


def test_global_and_concat_slots_change_the_output_and_null_is_zeros() -> None:
    torch.manual_seed(0)
    backbone = DAU1d(**TINY, cond_dim=3, global_cond_dim=5).eval()
    assert backbone.slot_widths == {Slot.GLOBAL: 5, Slot.INPUT_CONCAT: 3}
    cond = Conditioning(global_cond=torch.randn(2, 5), input_concat=torch.randn(2, 3, 8))
    x, t = torch.randn(2, 2, 16), torch.rand(2)
    base = backbone(x, t, cond)
    null = backbone.null(cond)
    assert null is not None
    assert not torch.allclose(base, backbone(x, t, null))
    assert not torch.allclose(base, backbone(x, t, cond.replace(input_concat=torch.randn(2, 3, 8))))
    dropped = backbone.drop(cond, {Slot.GLOBAL: torch.tensor([False, True])})
    mixed = backbone(x, t, dropped)
    torch.testing.assert_close(mixed[0], backbone(x, t, null)[0])
    torch.testing.assert_close(mixed[1], base[1])


def test_noise_augmentation_acts_in_training_only_and_can_be_given() -> None:
    torch.manual_seed(0)
    backbone = DAU1d(**TINY, cond_dim=3, cond_noise_aug=True).eval()
    x, t, concat = torch.randn(2, 2, 16), torch.rand(2), torch.randn(2, 3, 16)
    cond = Conditioning(input_concat=concat)
    clean = backbone(x, t, cond)
    zero = backbone.augment(cond, torch.zeros(2), torch.randn_like(concat))
    torch.testing.assert_close(backbone(x, t, zero), clean)
    full = backbone.augment(cond, torch.ones(2), torch.randn_like(concat))
    assert not torch.allclose(backbone(x, t, full), clean)
    backbone.train()
    assert not torch.equal(backbone(x, t, cond), backbone(x, t, cond))


def test_snake_replaces_gelu() -> None:
    backbone = DAU1d(**TINY, use_snake=True)
    names = [k for k in backbone.state_dict() if k.endswith(".alpha")]
    assert len(names) == 2 * 18 - 1
    x = torch.randn(1, 2, 16)
    assert backbone(x, torch.rand(1), Conditioning()).shape == x.shape


def test_gradient_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    backbone = DAU1d(**TINY)
    x, t = torch.randn(1, 2, 16), torch.rand(1)
    grads = []
    for enabled in (False, True):
        backbone.enable_gradient_checkpointing(enabled)
        backbone.zero_grad()
        backbone(x, t, Conditioning()).square().sum().backward()
        grads.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    assert len(grads[0]) == len(list(backbone.parameters()))
    for plain, recomputed in zip(*grads):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": [8, 8]}, "depth 3 needs 3 channels"),
        ({"strides": [2]}, "depth 3 needs 2 strides"),
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"cond_noise_aug": True}, "cond_dim is 0"),
        ({"channels": [8, 8, 97]}, "channels that divide"),
    ],
)
def test_mistakes_are_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DAU1d(**{**TINY, **change})


@pytest.mark.parametrize("name", ["base", "base_16k", "base_44k", "large"])
def test_shipped_config_is_the_published_one(name: str) -> None:
    manifest = json.loads((MANIFESTS / f"dance_diffusion_{name}.json").read_text())["config"]
    shipped = json.loads((CONFIGS / f"dance_diffusion_{name}.json").read_text())
    assert next(iter(shipped)) == "$schema"
    assert {k: shipped[k] for k in manifest} == manifest
    assert load_config(shipped).model_type == "diffusion_uncond"
