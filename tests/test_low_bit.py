"""Optimizers of few bits: updates, states, resumption, rounding at random."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.optim import OPTIMIZERS, build_optimizer, build_scheduler, low_bit
from stable_audio.optim.low_bit import LowBitAdam

NAMES = [name for name, cls in OPTIMIZERS.items() if issubclass(cls, LowBitAdam)]
FEW = {"AdamW8bit": 1, "AdamW4bit": 0.5, "AdamWFp8": 1}
LARGE = (64, 64)  # of 4096 numbers, the fewest that are held in few bits


def _net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).to(dtype)


def _train(net: nn.Module, optimizer: Any, steps: range) -> None:
    dtype = next(net.parameters()).dtype
    for step in steps:
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(step)).to(dtype)
        net(x).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(autouse=True)
def _needs_torchao() -> None:
    pytest.importorskip("torchao.optim")


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_is_that_of_adamw(name: str) -> None:
    """Averages are zero then, so that nothing is lost by their few bits."""
    nets = [_net(), _net()]
    for net, kind in zip(nets, (name, "AdamW")):
        optimizer = build_optimizer({"type": kind, "config": {"lr": 0.01}}, net.parameters())
        _train(net, optimizer, range(1))
    for ours, theirs in zip(*(n.parameters() for n in nets)):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", list(FEW))
def test_averages_take_few_bits(name: str) -> None:
    net = _net()
    optimizer = build_optimizer({"type": name, "config": {"lr": 0.01}}, net.parameters())
    _train(net, optimizer, range(2))
    state = optimizer.state_dict()["state"]
    assert state[0]["exp_avg"]["codes"].nbytes == FEW[name] * math.prod(LARGE)
    assert state[0]["exp_avg_sq"]["codes"].nbytes == FEW[name] * math.prod(LARGE)
    assert type(state[1]["exp_avg"]) is torch.Tensor  # the bias, which is small


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_continued_bit_for_bit(name: str, dtype: torch.dtype, tmp_path: Any) -> None:
    config = {"type": name, "config": {"lr": 0.01, "bf16_stochastic_round": True}}
    schedule = {"type": "InverseLR", "config": {"inv_gamma": 3, "warmup": 0.5}}
    net = _net(dtype)
    optimizer = build_optimizer(config, net.parameters())
    _train(net, optimizer, range(3))
    torch.save([net.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = _net(dtype)
    other.load_state_dict(weights)
    continued = build_optimizer(config, other.parameters())
    continued.load_state_dict(state)
    for trained, steps in ((net, optimizer), (other, continued)):
        scheduler = build_scheduler(schedule, steps)
        for step in range(3, 6):
            _train(trained, steps, range(step, step + 1))
            scheduler.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_a_state_takes_another_learning_rate() -> None:
    net = _net()
    optimizer = build_optimizer({"type": "AdamW8bit", "config": {"lr": 0.01}}, net.parameters())
    _train(net, optimizer, range(1))
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.0  # as a continued run sets it
    optimizer.load_state_dict(state)
    before = net[0].weight.detach().clone()
    _train(net, optimizer, range(1, 2))
    assert torch.equal(net[0].weight, before)


def test_small_updates_of_bfloat16_are_right_on_average() -> None:
    """Just below 1, bfloat16 has steps of 2^-8. Adam's update for a constant gradient is lr, here 2^-13.

    Rounded to nearest it is always lost. Rounded at random, a weight goes down by 2^-8 with probability
    p = 1/32 each time: after n steps the mean of N weights has an error whose deviation is at most
    2^-8 sqrt(n p / N); six of these are allowed.
    """
    steps, count, rate = 32, 4096, 2.0**-13
    options = {"lr": rate, "weight_decay": 0.0, "eps": 0.0}
    means = {}
    for name in ("AdamW", "AdamWBF16"):
        weight = nn.Parameter(torch.ones(count, dtype=torch.bfloat16))
        optimizer = build_optimizer({"type": name, "config": options}, [weight])
        for _ in range(steps):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        means[name] = weight.detach().double().mean().item()
    assert means["AdamW"] == 1.0
    deviation = 2.0**-8 * math.sqrt(steps / 32 / count)
    # Averages in bfloat16 make an update of lr (1 +- 2^-7) of lr.
    assert means["AdamWBF16"] == pytest.approx(1 - steps * rate, abs=6 * deviation + steps * rate * 2.0**-6)


def test_rounding_is_the_same_in_every_process_and_leaves_other_draws_alone() -> None:
    results = []
    for seed in (1, 2):
        net = _net(torch.bfloat16)
        optimizer = build_optimizer({"type": "AdamWBF16", "config": {"lr": 1e-3}}, net.parameters())
        torch.manual_seed(seed)
        _train(net, optimizer, range(2))
        results.append(([p.detach() for p in net.parameters()], torch.rand(1)))
        torch.manual_seed(seed)
        assert torch.equal(torch.rand(1), results[-1][1])
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0]))


def test_weights_of_equal_shape_are_rounded_by_different_draws() -> None:
    weights = [nn.Parameter(torch.ones(512, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = build_optimizer({"type": "AdamWBF16", "config": {"lr": 2.0**-10}}, weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert not torch.equal(*weights)


def test_a_machine_without_torchao_is_told_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    low_bit.computed_by_torchao.cache_clear()
    for package in ("torchao", "torchao.optim"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"'AdamW8bit' needs torchao.*stable-audio\[quantize\]"):
        build_optimizer({"type": "AdamW8bit", "config": {}}, [nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AdamW8bit", {"block_size": 0}, "block_size must be a number from 1 on, found 0"),
        ("AdamWBF16", {"block_size": 64}, "AdamWBF16 holds no averages in blocks"),
        ("AdamW4bit", {"bf16_stochastic_round": "yes"}, "must be true or false, found 'yes'"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer({"type": name, "config": options}, [nn.Parameter(torch.ones(1))])
