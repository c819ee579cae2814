"""Averages and saved weights where every process holds a part of each weight."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from stable_audio.training.base import TrainingModule
from stable_audio.training.optimisation import ema as averaging
from stable_audio.training.optimisation.ema import EMA
from tests.training.worlds import run_world

KEYS = ("0.weight", "0.bias", "2.weight", "2.bias")


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 4))


def _average(network: nn.Module, steps: int, ema: EMA | None = None) -> EMA:
    """The average of `network` after `steps` of SGD on the square of its output."""
    ema = ema if ema is not None else EMA(network)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()
        ema.update()
    return ema


def _split(folder: str, device: Literal["cpu"] | None) -> None:
    from torch.distributed.fsdp import fully_shard

    if device is not None:  # as if the weights were on a GPU
        averaging._is_elsewhere = lambda *_: True
    torch.distributed.init_process_group("gloo")
    module = TrainingModule(_network(), ema=None)
    network = module.model
    module.ema = EMA(network, deferred=True, device=device)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    fully_shard(network, mesh=mesh)
    module.begin_fit()
    _average(network, 6, module.ema)
    state, tensors = module.ema.state_dict(), module.inference_tensors()
    with module.averaged():
        output = network(torch.ones(2, 6)).detach()
    # Another run goes on from what was stored.
    again = TrainingModule(_network(), ema=None)
    again.ema = EMA(again.model, deferred=True, device=device)
    fully_shard(again.model, mesh=mesh)
    again.load_state({"position": 6, "ema": state})
    again.begin_fit()
    resumed = again.ema.state_dict()
    if torch.distributed.get_rank() == 0:
        content = {"state": state, "tensors": tensors, "output": output, "resumed": resumed}
        torch.save(content, Path(folder) / "split.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
@pytest.mark.parametrize("device", [None, "cpu"], ids=["beside the weights", "on the host"])
def test_split_weights_are_averaged_and_saved_as_whole_ones_are(
    tmp_path: Path, device: Literal["cpu"] | None
) -> None:
    run_world(2, _split, str(tmp_path), device)
    split = torch.load(tmp_path / "split.pt")
    network = _network()
    ema = _average(network, 6)
    expected = ema.state_dict()
    assert (split["state"]["step"], split["state"]["initialised"]) == (6, True)
    for found in (split["state"]["average"], split["resumed"]["average"], split["tensors"]):
        _assert_close(found, expected["average"])
    with ema.swapped():
        torch.testing.assert_close(split["output"], network(torch.ones(2, 6)).detach())


def _assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert type(found[key]) is Tensor
        torch.testing.assert_close(found[key], value)


def test_frozen_layers_are_stored_but_not_averaged() -> None:
    network = _network()
    ema = _average(network, 3)
    assert tuple(ema.average) == KEYS
    state = ema.state_dict()
    assert state["average"].keys() == dict(network.named_parameters()).keys()
    assert torch.equal(state["average"]["1.weight"], network[1].weight)
    other = EMA(_network())
    other.load_state_dict(state)
    assert all(torch.equal(other.average[k], ema.average[k]) for k in KEYS)


def test_an_average_that_waits_is_of_the_weights_at_the_start() -> None:
    network = nn.Linear(1, 1)
    early, late = EMA(network), EMA(network, deferred=True)
    with torch.no_grad():
        network.weight.fill_(7.0)
    late.start()
    assert early.average["weight"].item() != 7
    assert late.average["weight"].item() == 7
