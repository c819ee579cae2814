"""UniPC against the paper's steps written out, against a linear equation, and against diffusers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoiser
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers.dpmpp import dpmpp_2m
from stable_audio.diffusion.samplers.flow import flow_dpmpp
from stable_audio.diffusion.samplers.unipc import unipc, unipc_step, unipc_ve
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.spaces import FLOW, VE
from tests.diffusion.gaussian import ideal_denoiser, normal
from tests.diffusion.test_samplers import _forbidden as no_noise

VE_LEVELS = torch.logspace(0.9, -1.3, 9, dtype=torch.float64)
FLOW_LEVELS = torch.cat([torch.linspace(0.95, 0.05, 9, dtype=torch.float64), torch.zeros(1)])


@pytest.mark.parametrize(
    ("ours", "theirs", "space", "levels"),
    [(unipc_ve, dpmpp_2m, VE, VE_LEVELS), (unipc, flow_dpmpp, FLOW, FLOW_LEVELS)],
)
def test_without_the_corrector_order_two_is_dpm_solver_2m(ours, theirs, space, levels) -> None:
    """What the paper's section 3.4 says of its predictor."""
    objective = OBJECTIVES["v" if space is VE else "rectified_flow"]()
    denoise, x = ideal_denoiser(objective, space), normal(1, 1, 40).double()
    seen: list[list[Tensor]] = [[], []]
    for solver, options, states in ((ours, {"corrector": False}, seen[0]), (theirs, {}, seen[1])):
        walked: list[Tensor] = states
        solver(
            denoise,
            x,
            levels,
            noise=no_noise,
            callback=lambda i, x, level, denoised, walked=walked: walked.append(x),
            **options,
        )
    for a, b in zip(*seen):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_corrected_step_is_the_formula() -> None:
    """Two steps of order 2 in the VE space, written out: predict, evaluate, correct, predict."""
    s0, s1, s2 = 4.0, 2.0, 0.7
    objective = OBJECTIVES["v"]()
    denoise, x0 = ideal_denoiser(objective, VE), normal(1, 1, 30).double()
    d0 = denoise(x0, s0).denoised
    h = math.log(s0 / s1)
    x1 = s1 / s0 * x0 - math.expm1(-h) * d0
    d1 = denoise(x1, s1).denoised
    x1 = s1 / s0 * x0 - math.expm1(-h) * d0 - math.expm1(-h) * 0.5 * (d1 - d0)
    h2 = math.log(s1 / s2)
    r = -h / h2
    x2 = s2 / s1 * x1 - math.expm1(-h2) * d1 - math.expm1(-h2) * 0.5 / r * (d0 - d1)
    # A third step, so that the order of the second one is not lowered; its state is what was corrected.
    states: list[Tensor] = []
    unipc_ve(
        denoise,
        x0,
        torch.tensor([s0, s1, s2, 0.3, 0.1], dtype=torch.float64),
        noise=no_noise,
        callback=lambda i, x, level, denoised: states.append(x),
    )
    assert torch.allclose(states[2], x2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("points", [3, 4])
def test_a_step_integrates_polynomials_in_lambda_exactly(points: int, ahead: bool) -> None:
    """x' = (sigma' / sigma) x + sigma' int e^u D(u) du for D(u) = u^k, with an integral in closed form."""
    sigmas = [3.0, 2.2, 1.5, 1.0][-points:]  # the last is where the step begins
    end = 0.6
    start, stop = -math.log(sigmas[-1]), -math.log(end)
    known = points + ahead
    for power in range(known):
        past = [
            (-math.log(s), torch.tensor((-math.log(s)) ** power, dtype=torch.float64))
            for s in reversed(sigmas)
        ]
        estimate = torch.tensor(stop**power, dtype=torch.float64) if ahead else None
        found = unipc_step(VE, torch.tensor(0.3, dtype=torch.float64), sigmas[-1], end, past, estimate)
        integral = 1 - math.exp(start - stop)
        for k in range(1, power + 1):
            integral = stop**k - start**k * math.exp(start - stop) - k * integral
        assert float(found) == pytest.approx(end / sigmas[-1] * 0.3 + integral, abs=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_the_steps_are_those_of_diffusers(order: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(
        num_train_timesteps=1000,
        solver_order=order,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=1.0,
    )
    steps = 7
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.double()

    def network(x: Tensor, t: float) -> Tensor:
        return torch.tanh(x + 0.5 * x.roll(1, 1) - 0.3 * x.roll(1, -1) + t) * (0.5 + t)

    start = normal(2, 4, 8)
    expected = start
    for t, sigma in zip(scheduler.timesteps, levels.tolist()):
        expected = scheduler.step(network(expected, sigma), t, expected).prev_sample
    found = sample(
        lambda x, t: network(x, float(t[0])),
        start,
        objective=OBJECTIVES["rectified_flow"](),
        noise=no_noise,
        sampler="unipc",
        schedule=levels,
        options={"order": order},
    )
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_order_must_be_positive() -> None:
    denoise = Denoiser(lambda x, t: x, OBJECTIVES["v"](), VE)
    with pytest.raises(ValueError, match="order must be at least 1, found 0"):
        unipc_ve(denoise, normal(1, 1, 2), VE_LEVELS, noise=no_noise, order=0)
