"""A step on shapes takes the memory of a step with numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stable_audio.config import load_config
from stable_audio.factory import create_model_from_config
from stable_audio.inference.memory.live import LiveMemory, empty_weights, on_shapes
from stable_audio.nn import attention_gradient, kept_results
from stable_audio.optim import build_optimizer
from stable_audio.training.build import build_training
from stable_audio.training.errors import TrainingError
from stable_audio.training.memory_plan import Choice, Planner, plan_training, precision_on
from stable_audio.training.memory_plan.trace import Circumstances, StepTrace, trace_step
from stable_audio.training.memory_plan.turns import turns_of
from stable_audio.training.options import RunOptions
from tests.config import examples
from tests.training.autoencoder.test_autoencoder import tiny_config as autoencoder_config
from tests.training.autoencoder.test_diffusion_autoencoder import tiny_config as diffusion_autoencoder_config

MODELS: dict[str, Any] = {
    "cond": examples.cond,
    "uncond": examples.uncond,
    "autoencoder": autoencoder_config,
    "diffusion autoencoder": diffusion_autoencoder_config,
}


def traced(data: dict[str, Any], **circumstances: Any) -> StepTrace:
    config = load_config(data)
    module = build_training(config, create_model_from_config(config, device="meta"))
    how = Circumstances(**circumstances)
    return trace_step(module, batch_size=2, sample_size=config.sample_size, circumstances=how)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_take_what_numbers_take(name: str) -> None:
    """The same steps, followed once with numbers and once on shapes."""
    config = load_config(MODELS[name]())
    planned = traced(MODELS[name]())
    module = build_training(config, create_model_from_config(config)).train()
    live = LiveMemory()
    assert live.hold(module.parameters()) == planned.weights
    live.hold(module.buffers())
    peaks: list[int] = []
    gradients: list[int] = []
    for turn in turns_of(module, 2, config.sample_size):
        resting, results = live.now, []
        if not module.by_hand:
            with live:
                for p in turn.network.parameters():
                    p.grad = torch.zeros_like(p) if p.requires_grad else None
        peak = live.peak_of(lambda turn=turn, results=results: results.append(turn.encode()))  # type: ignore[misc]
        forward = live.peak_of(
            lambda turn=turn, results=results: results.append(turn.forward(results.pop()))  # type: ignore[misc]
        )
        for p in module.parameters():
            p.grad = None
        backward = live.peak_of(results.pop().backward)
        apart = [] if turn.apart is None else [p for p in turn.apart.parameters() if p.requires_grad]
        backward += sum(p.nbytes for p in apart if p.grad is None)
        peaks.append(max(peak, forward, backward) - resting)
        gradients.append(sum(p.grad.nbytes for p in module.parameters() if p.grad is not None))
        gradients[-1] += sum(p.nbytes for p in apart if p.grad is None)
        for p in module.parameters():
            p.grad = None
    assert planned.gradients == max(gradients)
    # Kernels with numbers may keep other things than those without: within a few percent.
    assert planned.peak == pytest.approx(max(peaks), rel=0.05)


def test_a_chain_of_layers_by_hand() -> None:
    """x (b d) -> W1 -> relu -> W2: kept for the backward pass are x and the output of relu, which also tells
    where it was zero; W1 x is kept by nobody."""
    b, d = 16, 64
    with on_shapes():
        net = nn.Sequential(nn.Linear(d, d, bias=False), nn.ReLU(), nn.Linear(d, d, bias=False))
        x = torch.empty(b, d)
        live = LiveMemory()
        live.hold([x, *net.parameters()])
        held = live.now
        with live:
            y = net(x)
        assert live.now - held == 2 * 4 * b * d  # relu(W1 x) and y
        assert live.peak - held == 2 * 4 * b * d  # W1 x is gone before y is made
        del y
    assert live.now == held


def test_optimizers_on_shapes_keep_what_they_keep_with_numbers() -> None:
    config = load_config(examples.cond())
    for name, words in {"Adam": 2, "SGD": 0, "Adagrad": 1}.items():
        parts = Planner(config, device="cpu").plan(Choice(optimizer=name)).parts
        counters = 0 if words == 0 else 4096  # Adam counts its steps in one value per weight
        assert words * parts["gradients"] <= parts["optimizer"] <= words * parts["gradients"] + counters


def test_an_optimizer_that_needs_numbers_is_tried_on_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from stable_audio.training.memory_plan import static

    config = load_config(examples.cond())
    expected = Planner(config, device="cpu").plan(Choice()).parts["optimizer"]

    def refuse(*_: Any) -> None:
        raise RuntimeError("asks for numbers")

    monkeypatch.setattr(static, "_of_step", refuse)
    assert Planner(config, device="cpu").plan(Choice()).parts["optimizer"] == pytest.approx(
        expected, rel=0.01
    )


def test_states_of_samples_are_those_of_the_optimizer() -> None:
    weights = [nn.Parameter(torch.zeros(8, 4)), nn.Parameter(torch.zeros(8))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = build_optimizer({"type": "Adam", "config": {"lr": 0.1}}, weights)
    optimizer.step()
    kept = sum(v.nbytes for s in optimizer.state.values() for v in s.values())
    config = load_config(examples.cond())
    module = build_training(config, create_model_from_config(config, device="meta"))
    network = module.networks()[0]
    from stable_audio.training.memory_plan.static import _of_samples

    assert _of_samples(network, weights).state == kept


@pytest.mark.slow
def test_checkpointing_keeps_less_on_both_devices() -> None:
    data = examples.uncond()
    data["model"]["config"]["depth"] = 6
    for device, precision in (("cpu", "32-true"), ("cuda", "bf16-mixed")):
        data["training"]["gradient_checkpointing"] = False
        kept = traced(data, device=device, precision=precision)
        data["training"]["gradient_checkpointing"] = True
        again = traced(data, device=device, precision=precision)
        assert again.peak < kept.peak
        assert again.gradients == kept.gradients


@pytest.mark.slow
def test_recomputing_elementwise_results_keeps_more_and_repeats_no_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attention that a GPU computes in one kernel is kept on shapes, too."""
    monkeypatch.setattr(kept_results, "LEAST_TERMS", 1)
    data = examples.uncond()
    data["model"]["config"]["depth"] = 6
    for device, precision in (("cpu", "32-true"), ("cuda", "bf16-mixed")):
        found = {}
        for what in (False, "elementwise", True):
            data["training"]["gradient_checkpointing"] = what
            found[what] = traced(data, device=device, precision=precision)
        assert found[True].peak < found["elementwise"].peak < found[False].peak
        assert found[True].operations.recomputed > found[False].operations.recomputed
        assert found["elementwise"].operations == found[False].operations


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_plan_does_not_depend_on_the_processor(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is one kernel in it, also where a CPU takes its gradient by products in bfloat16."""
    found = []
    for fast in (False, True):
        monkeypatch.setattr(attention_gradient, "has_bfloat16", lambda fast=fast: fast)
        found.append(traced(examples.cond(), device=device, precision="bf16-mixed"))
    assert found[0] == found[1]


def test_weights_on_shapes_stay_shared() -> None:
    with torch.device("meta"):
        first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    both = nn.Sequential(first, second)
    with on_shapes():
        empty_weights(both)
        assert both[0].weight is both[1].weight
        live = LiveMemory()
        assert live.hold(both.parameters()) == 4 * (9 + 3 + 3)


def test_released_gradients_never_exist_all_at_once() -> None:
    data = examples.uncond()
    data["model"]["config"]["depth"] = 6
    planner = Planner(load_config(data))
    plain, released = planner.plan(Choice()), planner.plan(Choice(releases=True))
    assert released.total < plain.total
    assert released.parts["gradients"] == 0


def test_accumulation_keeps_the_gradients_of_earlier_batches() -> None:
    planner = Planner(load_config(examples.cond()))
    assert planner.plan(Choice(accum_batches=2)).total >= planner.plan(Choice()).total


def test_a_precision_that_nothing_is_known_of_is_refused() -> None:
    assert precision_on("cpu", "auto") == precision_on("cuda", "32") == "32-true"
    assert precision_on("cuda", "auto") == "bf16-mixed"
    for name in ("bf15", "transformer-engine", ""):
        with pytest.raises(TrainingError, match=r"': its memory is not planned; give one of auto, 32-true"):
            plan_training(load_config(examples.uncond()), RunOptions(precision=name), device="cpu")
