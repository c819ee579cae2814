"""Weights that are split block by block: the same numbers, in a world of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.backbones.base import Backbone
from stable_audio.nn import kept_results
from stable_audio.nn.float8 import compute_in_float8, float8_layers
from stable_audio.pretransforms.discriminators import EncodecDiscriminator
from stable_audio.training.base import TrainingModule
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.ema import EMA
from stable_audio.training.processes.joining import join_weights
from stable_audio.training.processes.sharding import Sharding, reshard, split
from tests.backbones.test_contracts import CASES, build, conditioning, inputs

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")


@pytest.fixture
def mesh() -> Iterator[Any]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def _model(backbone: Backbone) -> nn.Module:
    model = nn.Module()
    model.backbone = backbone.train()
    return model


def _gradients(backbone: Backbone) -> dict[str, Tensor]:
    (x, t), cond = inputs(backbone), conditioning(backbone)
    branches = [cond, backbone.null(cond)]
    reshard(backbone)
    backbone.zero_grad(set_to_none=True)
    for branch in branches:
        if branch is not None:
            torch.manual_seed(0)
            backbone(x, t, branch).square().sum().backward()
    return {n: _whole(p.grad) for n, p in backbone.named_parameters() if p.grad is not None}


def _whole(tensor: Any) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
@pytest.mark.parametrize("name", list(CASES))
def test_every_backbone_is_split_by_blocks(name: str, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, backward with and without recomputation, prepared conditioning and packed rows."""
    monkeypatch.setattr(kept_results, "LEAST_TERMS", 1)
    whole, parts = build(name).train(), build(name)
    expected = _gradients(whole)
    split(_model(parts), Sharding(mesh=mesh))
    for recomputed in (False, True, "elementwise"):
        parts.enable_gradient_checkpointing(recomputed)
        gradients = _gradients(parts)
        assert gradients.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(gradients[key], value, msg=lambda m, k=key: f"{k}: {m}")
    (x, t), cond = inputs(parts), conditioning(parts)
    with torch.no_grad():
        torch.manual_seed(0)
        prepared = parts(x, t, parts.prepare(cond))
        torch.manual_seed(0)
        torch.testing.assert_close(prepared, whole(x, t, whole.prepare(cond)))
        if not parts.packing_obstacles:
            lengths = [x.shape[-1], x.shape[-1] // 2]
            packed = [b.forward_packed(x, t, cond, lengths) for b in (parts, whole)]
            torch.testing.assert_close(*packed)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_layers_in_8_bits_are_split_like_others(mesh: Any) -> None:
    cls, config = CASES["dit"]
    backbones = []
    for _ in range(2):
        torch.manual_seed(0)
        backbone = cls(**{**config, "embed_dim": 32}).train()
        layers = float8_layers(backbone.units, backbone.hidden_matrices())
        assert compute_in_float8(backbone, layers, scaling="tensorwise", emulated=True)
        backbones.append(backbone)
    whole, parts = backbones
    expected = _gradients(whole)
    split(_model(parts), Sharding(mesh=mesh))
    for recomputed in (False, True):
        parts.enable_gradient_checkpointing(recomputed)
        gradients = _gradients(parts)
        assert gradients.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(gradients[key], value, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", list(CASES))
def test_units_are_apart_and_called_once(name: str) -> None:
    """They could be compiled, recomputed or gathered one by one."""
    backbone = build(name).train()
    units = list(backbone.units)
    owners = [id(p) for unit in units for p in unit.parameters()]
    assert owners
    assert len(owners) == len(set(owners))
    calls = dict.fromkeys(map(id, units), 0)

    def count(module: nn.Module, *_: Any) -> None:
        calls[id(module)] += 1

    for unit in units:
        unit.register_forward_pre_hook(count)
    backbone(*inputs(backbone), conditioning(backbone))
    assert set(calls.values()) == {1}


def test_what_was_gathered_of_averaged_weights_is_let_go(mesh: Any) -> None:
    """FSDP2 keeps whole weights of the outermost unit after a computation without gradients."""
    module = TrainingModule(_model(build("mlp")), ema=None)
    backbone: Any = module.model.backbone
    (x, t), cond = inputs(backbone), conditioning(backbone)
    split(module.model, Sharding(mesh=mesh))
    module.ema = EMA(module.model)
    before = backbone(x, t, cond).detach().clone()
    for average in module.ema.average.values():
        average.mul_(2)
    with torch.no_grad():
        with module.averaged():
            assert not torch.allclose(backbone(x, t, cond), before)
        torch.testing.assert_close(backbone(x, t, cond), before, rtol=0, atol=0)


def test_trained_weights_outside_of_all_parts_are_refused(mesh: Any) -> None:
    model = _model(build("mlp"))
    model.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(TrainingError, match=r"of Module belong to no part.*: scale; use --strategy ddp"):
        split(model, Sharding(mesh=mesh))


def test_what_is_frozen_for_a_step_gets_no_gradient(mesh: Any) -> None:
    """Also where a computation without gradients has left the weights whole."""
    discriminator = EncodecDiscriminator(filters=2, n_ffts=[64], hop_lengths=[16], win_lengths=[64])
    split(discriminator, Sharding(mesh=mesh))
    audio = torch.randn(2, 2, 256, requires_grad=True)
    with torch.no_grad():
        discriminator.judge(audio)
    for trains in (False, True, False):
        reshard(discriminator)
        discriminator.zero_grad()
        discriminator.requires_grad_(trains)
        sum(losses for losses in discriminator.generator_losses(audio.detach(), audio)).backward()
        assert {p.grad is not None for p in discriminator.parameters()} == {trains}


def test_frozen_weights_stay_whole(mesh: Any) -> None:
    backbone = build("dit")
    backbone.transformer.layers[0].requires_grad_(False)
    backbone.transformer.layers[1].ff.requires_grad_(False)
    split(_model(backbone), Sharding(mesh=mesh))
    for name, parameter in backbone.named_parameters():
        assert hasattr(parameter, "full_tensor") == parameter.requires_grad, name
    gradients = _gradients(backbone)
    assert not any(k.startswith("transformer.layers.0.") for k in gradients)


def test_gradients_of_sixteen_bits_are_summed_in_float32(mesh: Any) -> None:
    backbone = build("mlp").to(torch.bfloat16)
    split(_model(backbone), Sharding(mesh=mesh))
    policies = {unit._get_fsdp_state()._mp_policy.reduce_dtype for unit in (*backbone.units, backbone)}
    assert policies == {torch.float32}


def test_joined_weights_have_gradients_of_zero() -> None:
    """Inner modules first; what has a part keeps its gradient."""
    torch.manual_seed(0)
    inner, idle = nn.Linear(3, 3), nn.Linear(2, 2)
    outer = nn.Sequential(inner)
    outer.idle = idle
    outer._modules["idle"] = idle
    outer.forward = lambda x: {"features": (inner(x), None)}  # type: ignore[method-assign, assignment]
    x = torch.ones(1, 3)
    inner(x).sum().backward()
    expected = inner.weight.grad
    inner.zero_grad()
    join_weights([inner, outer])
    outer(x)["features"][0].sum().backward()
    assert torch.equal(inner.weight.grad, expected)
    assert not idle.weight.grad.any()
    with torch.no_grad():
        assert outer(x)["features"][0].grad_fn is None
