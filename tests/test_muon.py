"""Muon against a literal implementation, torch's own, and AdamW for all weights that are no matrices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stable_audio.optim import build_optimizer
from stable_audio.optim.muon import ADJUSTMENTS, MATRICES, Muon, by_matrices, orthogonalised

A, B, C = 3.4445, -4.7750, 2.0315


def _literal_orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz as Jordan et al. 2024 write it, for one matrix."""
    x = g / max(float(g.norm()), 1e-7)
    transposed = g.shape[0] > g.shape[1]
    x = x.T if transposed else x
    for _ in range(steps):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x.T if transposed else x


def _literal_steps(weight: Tensor, grads: list[Tensor], lr: float, decay: float, momentum: float) -> Tensor:
    weight, average = weight.clone(), torch.zeros_like(weight)
    for g in grads:
        average = momentum * average + (1 - momentum) * g
        update = _literal_orthogonal((1 - momentum) * g + momentum * average)
        weight = weight * (1 - lr * decay) - lr * 0.2 * max(weight.shape) ** 0.5 * update
    return weight


def _grads(shape: tuple[int, ...], steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def _run(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], grads: list[list[Tensor]]) -> None:
    for step in grads:
        for weight, grad in zip(weights, step):
            weight.grad = grad.clone()
        optimizer.step()


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_a_matrix_takes_the_steps_of_the_paper(shape: tuple[int, int]) -> None:
    weight, grads = nn.Parameter(torch.randn(shape)), _grads(shape, 4)
    expected = _literal_steps(weight.detach().double(), [g.double() for g in grads], 0.1, 0.3, 0.9)
    _run(Muon([weight], lr=0.1, weight_decay=0.3, momentum=0.9), [weight], [[g] for g in grads])
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_the_direction_is_about_orthogonal() -> None:
    """Five steps bring singular values into about [0.7, 1.2], as the paper says."""
    x = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(x, steps=5, coefficients=(A, B, C), eps=1e-7))
    assert float(values.min()) > 0.6
    assert float(values.max()) < 1.25


@pytest.mark.parametrize("adjustment", list(ADJUSTMENTS))
def test_steps_are_those_of_torch(adjustment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has its own Muon from 2.9 on")
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())  # which torch rounds to
    weight = nn.Parameter(torch.randn(6, 4))
    other = nn.Parameter(weight.detach().clone())
    grads, options = [[g] for g in _grads((6, 4), 3)], {"lr": 0.02, "adjust_lr_fn": adjustment}
    _run(Muon([weight], **options), [weight], grads)
    _run(torch.optim.Muon([other], **options), [other], grads)
    torch.testing.assert_close(weight, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3, 2), (9, 2, 2), (9, 1, 2, 2)])
def test_stacked_matrices_are_treated_one_by_one_and_kernels_are_flattened(shape: tuple[int, ...]) -> None:
    stacked, kernel = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(shape))
    parts = [nn.Parameter(p.detach().clone()) for p in stacked.chunk(3)]
    flat = nn.Parameter(kernel.detach().clone().flatten(1))
    grads = _grads((6, 5), 3), _grads(shape, 3)
    groups = by_matrices([{"params": [stacked, kernel]}], {stacked: 3, kernel: 1})
    _run(Muon(groups, lr=0.1), [stacked, kernel], [list(g) for g in zip(*grads)])
    _run(Muon(parts, lr=0.1), parts, [list(g.chunk(3)) for g in grads[0]])
    _run(Muon([flat], lr=0.1), [flat], [[g.flatten(1)] for g in grads[1]])
    torch.testing.assert_close(stacked.detach(), torch.cat([p.detach() for p in parts]))
    torch.testing.assert_close(kernel.detach().flatten(1), flat.detach())


@pytest.mark.parametrize("fused", [True, False])
def test_all_other_weights_take_the_steps_of_adamw(fused: bool) -> None:
    shapes = [(3,), (4, 2)]  # a gain, and a matrix that is not hidden
    ours = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    theirs = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    grads = [list(g) for g in zip(*(_grads(shape, 4) for shape in shapes))]
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1, "fused": fused}
    _run(Muon([{"params": ours, MATRICES: 0}], **settings), ours, grads)
    _run(torch.optim.AdamW(theirs, **settings), theirs, grads)
    for a, b in zip(ours, theirs):
        assert torch.equal(a, b)


def test_a_bad_step_is_left_out_on_the_device() -> None:
    def run(bad_at: int | None) -> tuple[list[nn.Parameter], Muon]:
        weights = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4))]
        optimizer = Muon(weights, lr=0.1, fused=True)
        for step, grads in enumerate(zip(_grads((4, 3), 3), _grads((4,), 3))):
            for weight, grad in zip(weights, grads):
                weight.grad = torch.full_like(grad, float("nan")) if step == bad_at else grad.clone()
            if bad_at is not None:
                optimizer.found_inf = torch.tensor(float(step == bad_at))  # type: ignore[attr-defined]
            elif step == 1:
                continue
            optimizer.step()
        return weights, optimizer

    (clean, first), (skipped, second) = run(None), run(1)
    for a, b in zip(clean, skipped):
        assert torch.equal(a, b)
        for name, value in first.state[a].items():
            assert torch.equal(value, second.state[b][name]), name


def test_a_stored_state_goes_on_with_the_same_bits() -> None:
    weights = [nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4))]
    grads = [list(g) for g in zip(_grads((4, 3), 4), _grads((4,), 4))]
    optimizer = build_optimizer({"type": "Muon", "config": {"lr": 0.1, "betas": [0.9, 0.95]}}, weights)
    assert optimizer.defaults["fused"] is True
    _run(optimizer, weights, grads[:2])
    again = [nn.Parameter(w.detach().clone()) for w in weights]
    other = build_optimizer({"type": "Muon", "config": {"lr": 0.1, "betas": [0.9, 0.95]}}, again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    _run(optimizer, weights, grads[2:])
    _run(other, again, grads[2:])
    assert all(torch.equal(a, b) for a, b in zip(weights, again))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("momentum", 1.0, r"momentum and betas must be in \[0, 1\), found 1.0"),
        ("ns_steps", 0, "ns_steps at least 1, found"),
        ("adjust_lr_fn", "none", "must be original or match_rms_adamw, found 'none'"),
    ],
)
def test_settings_out_of_range_are_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer({"type": "Muon", "config": {option: value}}, [nn.Parameter(torch.ones(2, 2))])
