from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from stable_audio.optim import LR_SCHEDULERS, OPTIMIZERS, FusedAdam, build_optimizer, build_scheduler
from stable_audio.optim.low_bit import LowBitAdam
from stable_audio.optim.rate_factors import FACTOR, apply_rate_factors

NOT_DENSE = {"SparseAdam"}
NEEDS_MATRICES = {"Muon"}


def _params() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.full((2, 4), 2.0))]


def _step(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> float:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    return float(optimizer.step(closure).detach())


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - NOT_DENSE))
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    if issubclass(OPTIMIZERS[name], LowBitAdam):
        pytest.importorskip("torchao.optim")
    params = _params()
    optimizer = build_optimizer({"type": name, "config": {"lr": 0.05}}, params)
    first = _step(optimizer, params)
    for _ in range(5):
        last = _step(optimizer, params)
    assert last < first


def test_fused_where_there_is_one() -> None:
    assert build_optimizer({"type": "AdamW", "config": {}}, _params()).defaults["fused"] is True
    chosen = build_optimizer({"type": "AdamW", "config": {"fused": False}}, _params())
    assert chosen.defaults["fused"] is False
    assert "fused" not in build_optimizer({"type": "RMSprop", "config": {}}, _params()).defaults
    groups = [{"params": _params(), "lr": 0.1}]
    assert build_optimizer({"type": "Adam"}, groups).defaults["fused"] is True


def test_kernels_that_take_whole_weights_only_are_not_used_for_parts(monkeypatch) -> None:
    monkeypatch.setattr("stable_audio.optim.is_split", lambda tensor: True)
    for name, fused in {"SGD": None, "Adagrad": None, "Adam": True, "AdamW": True}.items():
        assert build_optimizer({"type": name, "config": {"lr": 0.1}}, _params()).defaults["fused"] is fused
    monkeypatch.undo()
    assert build_optimizer({"type": "SGD", "config": {"lr": 0.1}}, _params()).defaults["fused"] is True


def test_fused_adam_has_no_weight_decay_of_its_own() -> None:
    optimizer = build_optimizer(
        {"type": "FusedAdam", "config": {"lr": 1e-3, "betas": [0.9, 0.95]}}, _params()
    )
    assert isinstance(optimizer, FusedAdam)
    assert optimizer.defaults["weight_decay"] == 0
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_inverse_lr_known_values() -> None:
    optimizer = torch.optim.SGD(_params(), lr=1.0)
    config = {"type": "InverseLR", "config": {"inv_gamma": 10, "power": 0.5, "warmup": 0.9}}
    scheduler = build_scheduler(config, optimizer)
    rates = []
    for _ in range(5):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1, 0.1812, 0.2474, 0.3016, 0.3461], abs=5e-5)


def test_inverse_lr_resumes() -> None:
    optimizer = torch.optim.SGD(_params(), lr=0.1)
    config = {"type": "InverseLR", "config": {"inv_gamma": 3, "warmup": 0.5, "final_lr": 0.02}}
    first = build_scheduler(config, optimizer)
    for _ in range(4):
        optimizer.step()
        first.step()
    second = build_scheduler(config, torch.optim.SGD(_params(), lr=0.1))
    second.load_state_dict(first.state_dict())
    second.optimizer.step()
    optimizer.step()
    first.step()
    second.step()
    assert first.get_last_lr() == second.get_last_lr()


SCHEDULER_OPTIONS = {
    "LambdaLR": None,
    "MultiplicativeLR": None,
    "SequentialLR": None,
    "ChainedScheduler": None,
    "ReduceLROnPlateau": None,
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [1, 2]},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 9},
    "CosineAnnealingWarmRestarts": {"T_0": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 8},
    "PolynomialLR": {},
    "LinearLR": {},
    "ConstantLR": {},
    "InverseLR": {},
}


@pytest.mark.parametrize("name", sorted(n for n, o in SCHEDULER_OPTIONS.items() if o is not None))
def test_every_step_wise_scheduler_steps(name: str) -> None:
    optimizer = torch.optim.SGD(_params(), lr=0.1, momentum=0.9)
    scheduler = build_scheduler({"type": name, "config": SCHEDULER_OPTIONS[name]}, optimizer)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] > 0


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(("steps", "pct_start"), [(4, 0.25), (10, 0.1), (1, 0.3), (2, 0.5), (3, 0.3)])
def test_one_cycle_of_any_length(steps: int, pct_start: float, three_phase: bool) -> None:
    optimizer = torch.optim.SGD(_params(), lr=0.1, momentum=0.9)
    options = {"max_lr": 0.1, "pct_start": pct_start, "three_phase": three_phase}
    scheduler = build_scheduler({"type": "OneCycleLR", "config": options}, optimizer, steps=steps)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        assert 0 < scheduler.get_last_lr()[0] <= 0.1


def test_registry_has_no_base_classes() -> None:
    assert "Optimizer" not in OPTIMIZERS
    assert "LRScheduler" not in LR_SCHEDULERS
    assert {"AdamW", "SGD", "Adam", "FusedAdam"} <= set(OPTIMIZERS)
    assert all(inspect.isclass(c) for c in LR_SCHEDULERS.values())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "AdamV"}, "unknown optimizer 'AdamV'; did you mean 'Adam.*known: ASGD"),
        ({"type": "AdamW", "config": {"lrr": 1}}, "option 'lrr': unknown option of AdamW; did you mean 'lr'"),
        (
            {"type": "AdamW", "config": {"amsgrad": 0.5}},
            "'amsgrad': found 0.5; expected true or false",
        ),
        ({"type": "Adam", "config": {"lr": "1e-4"}}, "option 'lr': found"),
        ({}, "unknown optimizer None"),
    ],
)
def test_optimizer_mistakes(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer(config, _params())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "InversLR"}, "did you mean 'InverseLR'"),
        ({"type": "InverseLR", "config": {"warmup": 1.0}}, r"warmup must be in \[0, 1\), found 1.0"),
        ({"type": "InverseLR", "config": {"inv_gamma": 0}}, "inv_gamma must be above 0, found 0"),
        ({"type": "ReduceLROnPlateau"}, "needs a metric"),
    ],
)
def test_scheduler_mistakes(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_scheduler(config, torch.optim.SGD(_params(), lr=0.1))


def _by_factors() -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    weights = [nn.Parameter(torch.zeros(())) for _ in range(2)]
    groups = [{"params": [w], FACTOR: factor} for w, factor in zip(weights, (1.0, 4.0))]
    optimizer = torch.optim.SGD(groups, lr=0.5)
    apply_rate_factors(optimizer)
    for weight in weights:
        weight.grad = torch.ones(())
    return optimizer, weights


def _rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def test_factors_of_rates_apply_within_a_step_only() -> None:
    optimizer, weights = _by_factors()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.step()
    assert [w.item() for w in weights] == [-0.5, -2.0]
    scheduler.step()
    assert _rates(optimizer) == [0.25, 0.25]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert [w.item() for w in weights] == [-0.75, -3.0]


def test_a_closure_that_steps_by_itself_sees_the_rates_without_factors() -> None:
    optimizer, weights = _by_factors()

    def closure() -> None:
        assert _rates(optimizer) == [0.5, 0.5]
        type(optimizer).step(optimizer)
        for weight in weights:
            weight.grad = None

    optimizer.step(closure)
    assert [w.item() for w in weights] == [-0.5, -2.0]
    assert _rates(optimizer) == [0.5, 0.5]


def test_an_error_within_a_step_leaves_the_rates_without_factors() -> None:
    optimizer, _ = _by_factors()

    def closure() -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        optimizer.step(closure)
    assert _rates(optimizer) == [0.5, 0.5]
