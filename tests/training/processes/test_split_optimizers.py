"""Optimizers of weights that are split: the numbers of one process, whose state they share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stable_audio.optim import build_optimizer
from stable_audio.optim.owners import batches, work_on_whole
from stable_audio.training.processes.gathering import whole, whole_values
from stable_audio.training.processes.splitting import parts_of_state
from tests.training.worlds import run_world

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")

KINDS = ("AdamW", "Muon", "AdamW8bit", "AdamW4bit")
SHAPES = {2: (2,), 4: (2, 2)}
"""Processes -> the mesh that they are: replicas and parts, or parts alone."""


def _network() -> nn.Sequential:
    """Rows of blocks of 256, small matrices, and fewer rows than processes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 33), nn.Linear(33, 40), nn.Linear(40, 1))


def _optimizer(kind: str, network: nn.Module) -> Optimizer:
    return build_optimizer({"type": kind, "config": {"lr": 1e-2}}, network.parameters())


def _step(network: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for number in steps:
        torch.manual_seed(number)
        network(torch.randn(4, 256)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def _kinds() -> list[str]:
    try:
        import torchao.optim  # noqa: F401
    except ImportError:
        return [kind for kind in KINDS if "bit" not in kind]
    return list(KINDS)


def _split(folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo")
    shape = SHAPES[torch.distributed.get_world_size()]
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "parts")[-len(shape) :])
    for kind in _kinds():
        content: dict[str, Any] = {}
        for name in ("begun", "continued"):
            network = _network()
            for layer in (*network, network):
                fully_shard(layer, mesh=mesh)
            optimizer = _optimizer(kind, network)
            if name == "begun":
                _step(network, optimizer, range(3))
                state = optimizer.state_dict()
                content["optimizer"] = copy.deepcopy({**state, "state": whole_values(state["state"])})
                content["before"] = whole(network.state_dict())
            else:
                from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

                stored = torch.load(folder / f"{kind}.pt")
                options = StateDictOptions(full_state_dict=True)
                set_model_state_dict(network, stored["before"], options=options)
                optimizer.load_state_dict(parts_of_state(optimizer, stored["optimizer"]))
            _step(network, optimizer, range(3, 5))
            content[name] = whole(network.state_dict())
        if torch.distributed.get_rank() == 0:
            torch.save(content, folder / f"{kind}-{torch.distributed.get_world_size()}.pt")


def _alone(folder: Path, kind: str) -> dict[str, Tensor]:
    network = _network()
    optimizer = _optimizer(kind, network)
    _step(network, optimizer, range(3))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    torch.save({"before": before, "optimizer": optimizer.state_dict()}, folder / f"{kind}.pt")
    _step(network, optimizer, range(3, 5))
    return dict(network.state_dict())


def _on_alone_from(kind: str, stored: dict[str, Any]) -> dict[str, Tensor]:
    network = _network()
    network.load_state_dict(stored["before"])
    optimizer = _optimizer(kind, network)
    optimizer.load_state_dict(stored["optimizer"])
    _step(network, optimizer, range(3, 5))
    return dict(network.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_optimizers_step_as_on_whole_weights_and_go_on_from_either(tmp_path: Path, processes: int) -> None:
    expected = {kind: _alone(tmp_path, kind) for kind in _kinds()}
    run_world(processes, _split, tmp_path)
    for kind, weights in expected.items():
        found = torch.load(tmp_path / f"{kind}-{processes}.pt")
        for name in ("begun", "continued"):
            _assert_equal(found[name], weights, f"{kind}, {name}")
        _assert_equal(_on_alone_from(kind, found), weights, f"{kind}, then whole")


def _assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-6, atol=1e-7, msg=lambda m, k=key: f"{name} {k}: {m}"
        )


def _worked(folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    wholes = [torch.arange(rows * 2.0).view(rows, 2) + rows for rows in (5, 1, 4, 3, 2)]
    weights: Any = [distribute_tensor(value, mesh, [Shard(0)]) for value in wholes]
    done: list[int] = []

    def doubled(tensor: Tensor, weight: Any) -> Tensor:
        done.append(len(tensor))
        return tensor.flip(0) * 2

    for batch in batches(weights):
        parts = [weight.to_local() for weight in batch]
        for weight, rows in zip(batch, work_on_whole(batch, parts, doubled)):
            expected = distribute_tensor(weight.full_tensor().flip(0) * 2, mesh, [Shard(0)])
            assert torch.equal(rows, expected.to_local())
    assert done == [[5, 3], [1, 2], [4]][torch.distributed.get_rank()]


def test_each_whole_tensor_is_worked_on_by_one_process(tmp_path: Path) -> None:
    run_world(3, _worked, tmp_path)
