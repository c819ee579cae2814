"""The loss that is a mean over items, against its formulas written out item by item."""

from __future__ import annotations

import math

import pytest
import torch

from stable_audio.diffusion.coupling import coupled
from stable_audio.diffusion.item_means import FrameGroups, ItemMeans, LossNormalization
from stable_audio.diffusion.losses import LOSSES, LossInputs, LossSum, MSELoss
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.nn.terms import Term
from tests.diffusion.gaussian import normal

VALID = torch.arange(6) < torch.tensor([[6], [4], [0]])
KEPT = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()


def _groups() -> FrameGroups:
    signal = (VALID & ~KEPT)[:, None]
    return FrameGroups(signal, ~signal, (VALID & KEPT)[:, None])


def _inputs(means: ItemMeans, *, frames: FrameGroups | None = None) -> LossInputs:
    output, target = normal(3, 2, 6).double(), normal(3, 2, 6, seed=1).double()
    objective = OBJECTIVES["rectified_flow"]()
    return LossInputs(
        output,
        target,
        output,
        output,
        torch.full((3,), 0.5),
        objective,
        means=means,
        groups=frames or _groups(),
    )


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_each_item_counts_once(apart: bool, weight: float) -> None:
    inputs = _inputs(ItemMeans(rest_weight=weight, apart=apart))
    errors, groups = (inputs.output - inputs.target).square(), inputs.frames
    expected = 0.0
    for i in range(3):
        signal, rest = errors[i][:, groups.signal[i, 0]], errors[i][:, groups.rest[i, 0]]
        context = errors[i][:, groups.context[i, 0]]
        if apart:
            parts = [(signal, 1.0), (context, weight)]
            expected += sum(w * float(e.mean()) for e, w in parts if e.numel()) / 3
        elif signal.numel() or weight:
            total = float(signal.sum() + weight * rest.sum())
            expected += total / (signal.numel() + weight * rest.numel()) / 3
    loss, logged = LossSum([Term("mse", MSELoss())])(inputs)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(logged["mse_signal"]) == pytest.approx(float(errors[groups.signal.expand_as(errors)].mean()))
    outside = errors[~groups.signal.expand_as(errors)]
    assert float(logged["mse_masked_loss"]) == pytest.approx(float(outside.mean()))
    assert float(logged["mse_loss"] + weight * logged["mse_context_loss"]) == pytest.approx(float(loss))


def test_weight_one_without_masked_attention_is_the_mean_over_everything() -> None:
    inputs = _inputs(ItemMeans(rest_weight=1.0))
    loss, _ = LossSum([Term("mse", MSELoss())])(inputs)
    assert float(loss) == pytest.approx(float((inputs.output - inputs.target).square().mean()))


@pytest.mark.parametrize("kind", ["timestep", "sample", "sample_channel"])
@pytest.mark.parametrize("name", ["mse", "l1", "huber"])
def test_errors_of_the_signal_are_divided_by_the_variance_of_their_target(
    kind: LossNormalization, name: str
) -> None:
    inputs, loss = _inputs(ItemMeans(normalization=kind, eps=0.1)), LOSSES[name]()
    plain = loss.compare(inputs.output, inputs.target)
    found, signal, target = loss.elementwise(inputs), inputs.frames.signal, inputs.target
    for i in range(3):
        for c in range(2):
            for n in range(6):
                variance = {
                    "timestep": target[i, :, n],
                    "sample": target[i][:, signal[i, 0]].flatten(),
                    "sample_channel": target[i, c, signal[i, 0]],
                }[kind]
                scale = float(variance.var(unbiased=False)) + 0.1 if signal[i, 0, n] else 1.0
                assert float(found[i, c, n]) == pytest.approx(float(plain[i, c, n]) / scale)


def test_no_item_gives_a_gradient_that_is_no_number() -> None:
    for kind in ("none", "timestep", "sample", "sample_channel"):
        for apart in (False, True):
            inputs = _inputs(ItemMeans(apart=apart, normalization=kind))  # type: ignore[arg-type]
            output = inputs.output.clone().requires_grad_()
            changed = LossInputs(**{**vars(inputs), "output": output})
            LossSum([Term("mse", MSELoss())])(changed)[0].backward()
            assert output.grad is not None
            assert output.grad.isfinite().all()
            assert (output.grad[2] == 0).all()


def test_an_item_alone_has_its_own_groups() -> None:
    inputs = _inputs(ItemMeans(rest_weight=0.3))
    losses = LossSum([Term("mse", MSELoss())])
    assert float(losses.alone(inputs).mean()) == pytest.approx(float(losses(inputs)[0]))


def test_coupling_swaps_noise_for_shorter_paths() -> None:
    x0, order = normal(6, 2, 5), torch.tensor([3, 0, 5, 1, 4, 2])
    noise = (x0 + 0.1 * normal(6, 2, 5, seed=2))[order]
    assert torch.equal(noise[coupled(x0, noise)], noise[order.argsort()])
    found = coupled(normal(40, 2, 3), normal(40, 2, 3, seed=1))
    assert sorted(found.tolist()) == list(range(40))


def test_equal_costs_are_taken_in_order_and_no_cost_divides_by_nothing() -> None:
    assert coupled(torch.zeros(4, 1, 2), torch.zeros(4, 1, 2)).tolist() == [0, 1, 2, 3]
    assert math.isfinite(float(coupled(torch.zeros(2, 1, 1), torch.ones(2, 1, 1)).sum()))
