"""Two processes see together what one process sees, and never the same thing twice."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.diffusion.timesteps import Timesteps, Uniform
from stable_audio.training.batches.draws import StepDraws
from tests.training.building import tiny_config, write_files

ROOT = Path(__file__).parents[3]


def _draws(rank: int, world_size: int, batch_size: int, position: int = 3) -> StepDraws:
    timesteps = Timesteps(Uniform(), seed=5, rank=rank, world_size=world_size)
    return StepDraws(
        timesteps=timesteps,
        seed=5,
        position=position,
        rank=rank,
        world_size=world_size,
        batch_size=batch_size,
    )


def _everything(draws: StepDraws, n: int) -> dict[str, Any]:
    like = torch.empty(n, 2, 5)
    return {
        "t": draws.timesteps(n, 5),
        "noise": draws.noise(like),
        "encoder": draws.encoder_noise(like),
        "dropped": draws.bernoulli(n, 0.5),
        "again": draws.bernoulli(n, 0.5),
        "items": torch.tensor([draws.item_random(i).random() for i in range(n)]),
    }


def test_draws_of_two_ranks_are_those_of_one() -> None:
    whole = _everything(_draws(0, 1, 4), 4)
    parts = [_everything(_draws(rank, 2, 2), 2) for rank in (0, 1)]
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([p[name] for p in parts])), name
    assert not torch.equal(parts[0]["noise"], parts[1]["noise"])
    assert not torch.equal(whole["dropped"], whole["again"]) or not torch.equal(
        whole["t"][:2], whole["t"][2:]
    )
    assert _draws(0, 2, 2).coin(0.5) == _draws(1, 2, 2).coin(0.5)


def test_draws_differ_from_step_to_step_and_between_purposes() -> None:
    first, second = _draws(0, 1, 4, position=3), _draws(0, 1, 4, position=4)
    like = torch.empty(4, 2, 5)
    assert not torch.equal(first.noise(like), second.noise(like))
    assert not torch.equal(first.noise(like), first.encoder_noise(like))


def test_encoder_noise_in_parts_is_that_of_the_whole() -> None:
    whole = _draws(0, 1, 4).encoder_noise(torch.empty(4, 2, 5))
    draws = _draws(0, 1, 4)
    parts = [draws.encoder_noise(torch.empty(1, 2, 5)) for _ in range(4)]
    assert torch.equal(whole, torch.cat(parts))


def _config() -> dict[str, Any]:
    return tiny_config(
        cfg_dropout_prob=0.5, timestep_sampler="logit_normal", log_loss_info=True, p_one_shot=0.2
    )


def _fixed(folder: Path) -> list[str]:
    return [
        "--save-dir",
        str(folder),
        "--max-steps",
        "5",
        "--num-workers",
        "0",
        "--precision",
        "32-true",
        "--accelerator",
        "cpu",
        "--precision",
        "32",
    ]


def _train(folder: Path, name: str, *flags: str) -> list[dict[str, str]]:
    command = [sys.executable, str(ROOT / "train.py"), *write_files(folder, _config()), "--name", name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *_fixed(folder), *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with open(folder / name / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    one = _train(tmp_path, "one", "--batch-size", "4", "--devices", "1")
    two = _train(tmp_path, "two", "--batch-size", "2", "--devices", "2")
    assert [r["step"] for r in two] == [r["step"] for r in one] == ["1", "2", "3", "4", "5"]
    for a, b in zip(one, two):
        for name in ("train/loss", "train/grad_norm", *[k for k in a if k.startswith("model/loss_all")]):
            assert (a[name] == "") == (b.get(name, "") == ""), name
            if a[name]:
                assert float(b[name]) == pytest.approx(float(a[name]), rel=2e-4), (a["step"], name)
        assert float(b["speed/slowest_process"]) in (0, 1)
        assert 0 <= float(b["speed/slowest_process_lag"]) < 1
        assert float(b["speed/time_backward"]) > 0
    first, second = (load_torch_file(tmp_path / n / "last.ckpt") for n in ("one", "two"))
    for key, value in first["state_dict"].items():
        assert torch.allclose(value, second["state_dict"][key], atol=1e-4), key
    assert len(second["stable_audio"]["data"]) == 2


@pytest.mark.slow
def test_split_weights_train_like_whole_ones(tmp_path: Path) -> None:
    """Two processes with a part of each weight, stopped and continued: loss, weights, average, optimizer."""
    one = _train(tmp_path, "one", "--batch-size", "4", "--devices", "1")
    split = ["--batch-size", "2", "--devices", "2", "--strategy", "fsdp"]
    _train(tmp_path, "two", *split, "--max-steps", "3")
    two = _train(tmp_path, "two", *split, "--recover")
    assert [r["step"] for r in two] == [r["step"] for r in one] == ["1", "2", "3", "4", "5"]
    for a, b in zip(one, two):
        for name in ("train/loss", "train/grad_norm"):
            assert float(b[name]) == pytest.approx(float(a[name]), rel=2e-4), (a["step"], name)
    first, second = (load_torch_file(tmp_path / n / "last.ckpt") for n in ("one", "two"))
    averages = [content["stable_audio"]["ema"]["average"] for content in (first, second)]
    for whole, parts in (averages, (first["state_dict"], second["state_dict"])):
        assert whole.keys() == parts.keys()
        for key, value in whole.items():
            assert torch.allclose(value, parts[key], atol=1e-4), key
    states = [content["optimizer_states"][0]["state"] for content in (first, second)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        for name, value in state.items():
            assert torch.allclose(value, states[1][number][name], atol=1e-4), (number, name)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _two_nodes(folder: Path, command: list[str]) -> None:
    """Two torchrun processes of one process each, meeting on this machine."""
    port = _free_port()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    launcher += ["--rdzv-backend", "static", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [*launcher, "--node-rank", str(n), *command],
            env=environment,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in (0, 1)
    ]
    for rank, node in enumerate(nodes):
        _, errors = node.communicate(timeout=300)
        assert node.returncode == 0, errors[-3000:]
        assert f"process {rank} of 2 on 2 machines, counted from 0, started by torchrun" in errors


@pytest.mark.slow
def test_two_nodes_of_torchrun_train_as_one_world(tmp_path: Path) -> None:
    one = _train(tmp_path, "one", "--batch-size", "4", "--devices", "1")
    flags = [*write_files(tmp_path, _config()), "--name", "two", "--batch-size", "2", *_fixed(tmp_path)]
    _two_nodes(tmp_path, [str(ROOT / "train.py"), *flags])
    with open(tmp_path / "two" / "metrics.csv", newline="") as file:
        two = list(csv.DictReader(file))
    assert [r["step"] for r in two] == ["1", "2", "3", "4", "5"]
    for a, b in zip(one, two):
        assert float(b["train/loss"]) == pytest.approx(float(a["train/loss"]), rel=2e-4)
    assert len(load_torch_file(tmp_path / "two" / "last.ckpt")["stable_audio"]["data"]) == 2
