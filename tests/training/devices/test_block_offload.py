"""Weights that blocks get when they compute. A second set of weights on the CPU plays the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.adapters import AdapterSettings, AdapterStack
from stable_audio.backbones import BACKBONES
from stable_audio.config import load_config
from stable_audio.nn import kept_results
from stable_audio.nn.checkpointing import Recomputation
from stable_audio.training.devices import block_offload
from stable_audio.training.devices.block_offload import BlockOffload
from stable_audio.training.devices.levers import check_levers
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.transforms.freezing import Freeze
from tests import tiny
from tests.backbones.test_contracts import build, conditioning, inputs
from tests.training.building import tiny_config
from tests.training.diffusion.test_diffusion_step import _batch, _module

CPU = torch.device("cpu")
NAMES = [name for name in BACKBONES if name != "mlp"]  # which has one block here


def _frozen(name: str) -> Any:
    """A backbone whose vectors are trained and all larger weights are frozen."""
    backbone = build(name).train()
    backbone.enable_gradient_checkpointing()
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter.ndim < 2)
    return backbone


def _gradients(backbone: Any) -> list[Tensor | None]:
    (x, t), cond = inputs(backbone), conditioning(backbone)
    backbone.zero_grad()
    backbone(x.requires_grad_(), t, cond).square().sum().backward()
    return [p.grad for p in backbone.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_offloaded_blocks_have_the_same_gradients_and_two_are_there_at_most(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, backbone = _frozen(name), _frozen(name)
    expected = _gradients(plain)
    offload = BlockOffload(backbone)
    homes = {p: p.data_ptr() for weights in offload._homes for p in weights}
    counts: list[int] = []

    def copied(tensor: Tensor, device: torch.device) -> Tensor:
        counts.append(len({n for n, w in enumerate(offload._homes) for p in w if p.data_ptr() != homes[p]}))
        return tensor.clone()

    monkeypatch.setattr(block_offload, "_copied", copied)
    offload.start(CPU)
    for _ in range(3):  # the first one learns the order
        found = _gradients(backbone)
        assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(found, expected))
        assert len(offload.resident) <= 2
    assert max(counts) <= 2
    with torch.no_grad():
        (x, t), cond = inputs(backbone), conditioning(backbone)
        assert torch.equal(backbone(x, t, backbone.prepare(cond)), plain(x, t, plain.prepare(cond)))


def test_the_next_block_is_copied_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES["dit"](**{**tiny.BACKBONES["dit"], "depth": 4}).train()
    backbone.enable_gradient_checkpointing()
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter.ndim < 2)
    offload = BlockOffload(backbone)
    offload.start(CPU)
    _gradients(backbone)
    _gradients(backbone)
    order: list[tuple[str, int]] = []
    copy, bring = offload._copy, offload._bring
    monkeypatch.setattr(offload, "_copy", lambda n: (order.append(("copy", n)), copy(n)))
    monkeypatch.setattr(offload, "_bring", lambda n: (order.append(("use", n)), bring(n)))
    _gradients(backbone)
    # Block 0 is there from the step before, and so is block 3 when the backward pass begins.
    assert [n for what, n in order if what == "use"] == [1, 2, 3, 2, 1, 0]
    assert order[0] == ("use", 1)
    copies = [(what, n) for what, n in order if what == "copy"]
    assert copies == [("copy", n) for n in (2, 3, 1, 0)]  # each while the block before it computes
    assert all(order[order.index(("copy", n)) - 1][0] == "use" for n in (2, 3))


@pytest.mark.parametrize("what", [True, "elementwise"])
@pytest.mark.parametrize("kind", ["lora", "dora-rows"])
def test_adapters_train_on_offloaded_blocks(
    kind: str, what: Recomputation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_results, "LEAST_TERMS", 1)
    monkeypatch.setattr(block_offload, "_copied", lambda tensor, device: tensor.clone())
    results = []
    for offloaded in (False, True):
        backbone = build("dit").train().requires_grad_(False)
        backbone.enable_gradient_checkpointing(what)
        torch.manual_seed(0)
        stack = AdapterStack(backbone)
        trained = list(stack.parameters(stack.add(AdapterSettings(rank=2, adapter_type=kind))))
        offload = BlockOffload(backbone) if offloaded else None
        if offload is not None:
            offload.start(CPU)
        _gradients(backbone)
        gradients = [p.grad for p in trained]
        (x, t), cond = inputs(backbone), conditioning(backbone)
        with torch.no_grad():
            out = backbone.eval()(x, t, backbone.prepare(cond))
        results.append([out, *gradients])
        if offload is not None:
            for number in list(offload.resident):
                offload._evict(number)
            blocks = [m for block in offload._blocks for m in block.modules()]
            assert not [m for m in blocks if "_effective" in m.__dict__]
    assert len(results[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_moving_the_model_leaves_offloaded_weights_where_they_are() -> None:
    module = _module(gradient_checkpointing=True)
    Freeze(frozen=["backbone.transformer.layers.*"]).apply(module.model)
    module._blocks = BlockOffload(module.model.backbone)
    places = {p: p.data_ptr() for weights in module._blocks._homes for p in weights}
    module.to("meta")
    assert all(p.data_ptr() == place and p.device == CPU for p, place in places.items())
    assert module.model.backbone.preprocess_conv.weight.is_meta
    module = _module(gradient_checkpointing=True)
    Freeze(frozen=["backbone.transformer.layers.*"]).apply(module.model)
    module._blocks = BlockOffload(module.model.backbone)
    module.to(torch.bfloat16)
    assert {p.dtype for p in module.model.backbone.transformer.layers.parameters()} == {torch.bfloat16}
    module._blocks.start(CPU)
    assert module.training_step(_batch()).isfinite()


def test_blocks_without_frozen_weights_are_refused() -> None:
    with pytest.raises(TrainingError, match="fewer than two blocks of the backbone have frozen weights"):
        BlockOffload(build("dit"))


@pytest.mark.parametrize(
    ("training", "options", "processes", "message"),
    [
        ({}, {}, 1, "this run is on the CPU"),
        ({"gradient_checkpointing": 2}, {}, 1, "set gradient_checkpointing to true"),
        ({}, {"compile": True}, 1, "neither several processes nor --compile"),
        ({}, {}, 2, "neither several processes nor --compile"),
    ],
)
def test_what_does_not_fit_is_refused(
    training: dict[str, Any], options: dict[str, Any], processes: int, message: str
) -> None:
    config = tiny_config(**{"gradient_checkpointing": True, "offload_blocks": True, **training})
    with pytest.raises(TrainingError, match=rf"\$\.training\.offload_blocks: .*{message}"):
        check_levers(
            load_config(config).training, RunOptions(accelerator="cpu", **options), processes=processes
        )
