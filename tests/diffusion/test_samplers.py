from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.diffusion.denoiser import Denoiser, Output
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS, StepInfo
from stable_audio.diffusion.samplers.dpm_solver import StepControl, StepControlOptions, evaluation_plan
from stable_audio.diffusion.samplers.karras import multistep_weights, stable_weights
from stable_audio.diffusion.sampling import resolve_sampler, sample
from tests.diffusion.gaussian import MEAN, STD, exact, ideal, ideal_denoiser, normal

STOCHASTIC = {"dpmpp-2m-sde", "dpmpp-3m-sde", "k-dpmpp-2s-ancestral", "pingpong", "ddpm"}
DETERMINISTIC = sorted(set(SAMPLERS) - STOCHASTIC - {"k-dpm-adaptive"})


def _forbidden(like: Tensor, t_from: float | None = None, t_to: float | None = None) -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("objective_name", OBJECTIVES)
def test_every_deterministic_sampler_follows_the_exact_flow_of_every_objective(
    name: str, objective_name: str
) -> None:
    objective, space = OBJECTIVES[objective_name](), SAMPLERS[name].space
    noise = normal(2, 3, 50)
    x = sample(
        ideal(objective),
        noise,
        objective=objective,
        sampler=name,
        schedule="linear" if math.isfinite(space.max_level) else None,
        steps=120,
        noise=_forbidden,
        sigma_min=1e-3,
    )
    top = 100.0 if math.isinf(space.max_level) else 1.0
    start = noise * top if math.isinf(space.max_level) else noise
    # First-order methods set the bound, at values more than three deviations out.
    assert torch.allclose(x, exact(start, space, top, 0.0), atol=0.025)


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
@pytest.mark.parametrize("objective_name", ["v", "rectified_flow"])
def test_stochastic_samplers_reach_the_distribution(name: str, objective_name: str) -> None:
    objective = OBJECTIVES[objective_name]()
    steps = 400 if name == "ddpm" else 100  # its variance falls short by the square of the step
    x = sample(
        ideal(objective),
        normal(4, 2, 4000),
        objective=objective,
        sampler=name,
        steps=steps,
        noise=SeededNoise([1, 2, 3, 4]),
        sigma_min=1e-3,
    )
    assert x.mean().item() == pytest.approx(MEAN, abs=0.015)
    expected = 0.0 if name == "pingpong" else STD
    if name != "pingpong":
        assert x.std().item() == pytest.approx(expected, rel=0.03)
    else:  # it denoises to the posterior mean, so that variance is lost but not the mean
        assert 0.2 * STD < x.std().item() < STD


def _end_error(name: str, levels: list[float], options: dict[str, float]) -> float:
    """Error at the last level, which is above 0 so that no sampler switches to a final denoising."""
    spec = SAMPLERS[name]
    objective = OBJECTIVES["v" if spec.space.name != "flow" else "rectified_flow"]()
    x = exact(normal(1, 1, 200).double(), spec.space, 1.0, levels[0])
    schedule = torch.tensor(levels, dtype=torch.float64)
    denoise = ideal_denoiser(objective, spec.space)
    found = spec.fn(denoise, x, schedule, noise=_forbidden, **options)
    return float((found - exact(x, spec.space, levels[0], levels[-1])).abs().max())


def _levels(name: str, steps: int) -> list[float]:
    if SAMPLERS[name].space.name == "ve":
        return torch.logspace(0.7, -1.2, steps + 1, dtype=torch.float64).tolist()
    return torch.linspace(0.85, 0.1, steps + 1, dtype=torch.float64).tolist()


# Time enters networks in float32, which bounds what high orders can show: few steps, wide margins.
ORDERS = {
    "euler": (1, 20),
    "v-ddim": (1, 20),
    "k-heun": (2, 16),
    "heun": (2, 16),
    "euler-cfgpp": (1, 20),
    "unipc": (3, 24),
    "k-unipc": (3, 24),
    "k-dpm-2": (2, 16),
    "dpmpp-2m": (2, 24),
    "dpmpp": (2, 24),
    "k-dpm-fast": (3, 23),
    "rk4": (4, 3),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str) -> None:
    order, steps = ORDERS[name]
    coarse, fine = (
        _end_error(name, _levels(name, n), {}) for n in (steps, 2 * steps + (name == "k-dpm-fast"))
    )
    measured = math.log2(coarse / fine)
    assert order - 0.35 < measured < order + 0.9, (
        f"{name}: order {measured:.2f}, errors {coarse:.2e} {fine:.2e}"
    )


@pytest.mark.parametrize("name", ["dpmpp-2m-sde", "dpmpp-3m-sde", "k-dpmpp-2s-ancestral"])
def test_without_noise_the_stochastic_solvers_are_solvers(name: str) -> None:
    levels = _levels(name, 24)
    coarse, fine = (_end_error(name, _levels(name, n), {"eta": 0.0}) for n in (24, 48))
    assert fine < 2e-3
    assert math.log2(coarse / fine) > 1.6, (coarse, fine, levels[0])


@pytest.mark.parametrize("objective_name", ["v", "rectified_flow"])
def test_adaptive_sampler_meets_its_tolerance(objective_name: str) -> None:
    """Channels of unlike deviation: with a single one, the error estimate can vanish by accident."""
    objective, space = OBJECTIVES[objective_name](), SAMPLERS["k-dpm-adaptive"].space
    std = torch.linspace(0.1, 2.0, 20).view(1, 20, 1)
    evaluations = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return ideal(objective, std)(x, t)

    errors, costs = [], []
    for tolerance in (0.05, 0.0005):
        evaluations = 0
        options = {"rtol": tolerance, "atol": tolerance}
        noise = normal(1, 20, 5)
        x = sample(
            counted,
            noise,
            objective=objective,
            sampler="k-dpm-adaptive",
            noise=_forbidden,
            sigma_max=50,
            options=options,
        )
        errors.append(float((x - exact(noise * 50, space, 50.0, 0.01, std)).abs().max()))
        costs.append(evaluations)
    assert errors[1] < 0.01 < errors[0] < 0.2
    assert costs[0] < costs[1]


def test_adaptive_sampler_names_a_broken_model() -> None:
    with pytest.raises(FloatingPointError, match="no finite numbers"):
        sample(
            lambda x, t: x * math.nan,
            normal(1, 1, 8),
            objective=OBJECTIVES["v"](),
            sampler="k-dpm-adaptive",
            noise=_forbidden,
        )


def test_a_nonlinear_flow_agrees_with_an_ode_library() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x) * (1 + t.view(-1, 1, 1).to(x.dtype)) - 0.3 * x.roll(1, -1)

    start = normal(1, 2, 16)
    x = sample(
        velocity,
        start,
        objective=OBJECTIVES["rectified_flow"](),
        sampler="rk4",
        steps=60,
        noise=_forbidden,
    )
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    reference = torchdiffeq.odeint(
        lambda t, y: velocity(y, t.reshape(1)), start.double(), times, rtol=1e-8, atol=1e-8
    )[-1]
    assert torch.allclose(x.double(), reference, atol=2e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_tells_the_same_things_for_every_sampler(name: str) -> None:
    seen: list[StepInfo] = []
    objective = OBJECTIVES["rectified_flow"]()
    sample(
        ideal(objective),
        normal(2, 2, 6),
        objective=objective,
        sampler=name,
        steps=9,
        noise=SeededNoise([1, 2]),
        callback=seen.append,
    )
    assert [s.i for s in seen] == list(range(len(seen)))
    assert all(a.t > b.t and a.sigma > b.sigma for a, b in pairwise(seen))
    assert all(0 < s.t <= 1 and s.x.shape == s.denoised.shape == (2, 2, 6) for s in seen)
    assert all(torch.isfinite(s.denoised).all() for s in seen)


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_whatever_the_model_computes_in(name: str) -> None:
    objective = OBJECTIVES["v"]()

    def half(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        assert t.dtype == torch.float32
        return ideal(objective)(x, t).to(torch.bfloat16)

    x = sample(
        half,
        normal(1, 1, 8).half(),
        objective=objective,
        sampler=name,
        steps=6,
        noise=SeededNoise([1]),
        options={"rtol": 0.5, "atol": 0.5} if name == "k-dpm-adaptive" else {},
    )
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()


def test_items_do_not_depend_on_the_batch() -> None:
    objective = OBJECTIVES["v"]()
    noise = normal(3, 2, 8)

    def run(items: list[int]) -> Tensor:
        return sample(
            ideal(objective),
            noise[items],
            objective=objective,
            sampler="dpmpp-3m-sde",
            steps=8,
            noise=SeededNoise([10 + i for i in items]),
        )

    together, alone = run([0, 1, 2]), torch.cat([run([i]) for i in (0, 1, 2)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(run([2, 0]), together[[2, 0]], atol=1e-6)


def test_start_from_audio_keeps_it_at_low_noise() -> None:
    objective = OBJECTIVES["rectified_flow"]()
    init = MEAN + STD * normal(1, 1, 500, seed=3)
    moved = []
    for level in (0.02, 0.9):
        x = sample(
            ideal(objective),
            normal(1, 1, 500),
            objective=objective,
            sampler="euler",
            steps=20,
            sigma_max=level,
            init=init,
            noise=_forbidden,
        )
        moved.append(float((x - init).abs().mean()))
    assert moved[0] < 0.03 < 0.2 < moved[1]


def test_unknown_sampler_and_option_say_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'dpmpp-3m-sde'.*k-heun"):
        resolve_sampler("dpmpp_3m_sde", {})
    with pytest.raises(ValueError, match=r"no option \['etta'\].*eta, s_noise"):
        resolve_sampler("dpmpp-3m-sde", {"etta": 1})


def test_multistep_weights_integrate_polynomials_exactly() -> None:
    nodes = [5.0, 3.0, 2.0, 1.5]
    weights = multistep_weights(nodes, 1.5, 0.4)
    for power in range(4):
        expected = (0.4 ** (power + 1) - 1.5 ** (power + 1)) / (power + 1)
        assert sum(w * n**power for w, n in zip(weights, nodes)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("count", range(1, 20))
def test_fast_plan_spends_what_it_may(count: int) -> None:
    plan = evaluation_plan(count) if count != 0 else []
    assert sum(plan) == count
    assert all(1 <= order <= 3 for order in plan)


def test_step_control_shrinks_after_large_errors_and_grows_after_small_ones() -> None:
    control = StepControl(StepControlOptions(h_init=0.1), order=3)
    assert not control.propose(50.0)
    assert control.h < 0.1
    before = control.h
    assert control.propose(1e-4)
    assert control.h > before


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("level", [0.01, 0.002])
def test_a_start_at_the_lowest_level_is_denoised(name: str, level: float) -> None:
    """sigma_max = sigma_min: all levels of a geometric schedule are equal."""
    objective = OBJECTIVES["v"]()
    init = MEAN + STD * normal(1, 1, 500, seed=3)
    schedule = "polyexponential" if math.isinf(SAMPLERS[name].space.max_level) else None
    x = sample(
        ideal(objective),
        normal(1, 1, 500),
        objective=objective,
        sampler=name,
        schedule=schedule,
        steps=20,
        sigma_min=level,
        sigma_max=level,
        init=init,
        noise=SeededNoise([1]),
    )
    assert torch.isfinite(x).all()
    moved = (x - init).square().mean().sqrt()
    # One step leads to the posterior mean, which is about a deviation of the noise away.
    assert moved < 2.5 * level


@pytest.mark.parametrize("name", [n for n in DETERMINISTIC if math.isinf(SAMPLERS[n].space.max_level)])
@pytest.mark.parametrize(
    ("schedule", "rho"), [("polyexponential", 7.0), ("polyexponential", 3.0), ("karras", 7.0)]
)
def test_schedules_that_crowd_their_levels_do_no_harm(name: str, schedule: str, rho: float) -> None:
    objective, space = OBJECTIVES["v"](), SAMPLERS[name].space
    noise = normal(2, 3, 50)
    x = sample(
        ideal(objective),
        noise,
        objective=objective,
        sampler=name,
        schedule=schedule,
        steps=100,
        rho=rho,
        noise=_forbidden,
    )
    # These ramps leave long steps at one end, so only the size of the error is asked for.
    assert torch.allclose(x, exact(noise * 100, space, 100.0, 0.0), atol=0.5)


def test_the_last_order_of_a_crowded_schedule_is_the_first() -> None:
    crowded = [0.01 * (1 + e) for e in (3e-9, 2e-9, 1e-9, 0.0)]
    assert stable_weights(crowded, 0.01, 0.0) == [pytest.approx(-0.01)]
    nodes = [5.0, 3.0, 2.0, 1.5]
    assert stable_weights(nodes, 1.5, 0.4) == multistep_weights(nodes, 1.5, 0.4)


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-2m-sde", "dpmpp-3m-sde", "dpmpp", "pingpong", "ddpm"])
def test_samplers_of_the_data_compute_no_noise_estimate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = OBJECTIVES["v"]()
    monkeypatch.setattr(objective, "noise_at", None)
    sample(
        ideal(objective),
        normal(1, 1, 8),
        objective=objective,
        sampler=name,
        steps=4,
        noise=SeededNoise([1]),
        callback=lambda info: None,
    )


LINEAR = {"euler": 1, "heun": 2, "dpmpp": 2, "unipc": 3, "rk4": 4, "k-heun": 2, "dpmpp-2m": 2, "k-unipc": 3}


@pytest.mark.parametrize("name", LINEAR)
def test_order_on_a_linear_equation_with_a_known_solution(name: str) -> None:
    """D = x / 2 at every level: x has a power of the level as its solution, whatever the path."""
    spec, order = SAMPLERS[name], LINEAR[name]

    class Half:
        def __init__(self, x: Tensor, level: float) -> None:
            alpha, sigma = spec.space.path(level)
            self.denoised = x / 2
            self.noise = (x - alpha * self.denoised) / sigma

    # VE: dx / dsigma = (x - D) / sigma = x / (2 sigma), so x ~ sqrt(sigma).
    # Flow: dx / dt = (x - D) / t = x / (2 t), so x ~ sqrt(t).
    errors = []
    counts = [16, 32] if order < 4 else [4, 8]
    for steps in counts:
        levels = torch.linspace(0.9, 0.2, steps + 1, dtype=torch.float64)
        x = torch.ones(1, 1, 1, dtype=torch.float64)
        found = spec.fn(Half, x, levels, noise=_forbidden)
        errors.append(abs(float(found) - math.sqrt(0.2 / 0.9)))
    assert math.log2(errors[0] / errors[1]) > order - 0.35, errors


@pytest.mark.parametrize("name", ["v-ddim-cfgpp", "euler-cfgpp"])
def test_cfgpp_denoises_guided_and_renoises_unguided(name: str) -> None:
    """Chung et al. 2024, algorithm 2: x' = alpha' (guided estimate of x0) + sigma' (unguided noise)."""
    spec, objective = SAMPLERS[name], OBJECTIVES["rectified_flow"]()
    levels = torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)
    guided, unguided = ideal(objective), ideal(objective, std=1.3)

    def predict(x: Tensor, t: Tensor) -> Output:
        return Output(guided(x, t), unguided(x, t))

    start = normal(2, 2, 6)
    found = spec.fn(Denoiser(predict, objective, spec.space), start, levels, noise=_forbidden)
    expected = start
    both = [Denoiser(f, objective, spec.space) for f in (guided, unguided)]
    for level, next_level in pairwise(levels.tolist()):
        alpha, sigma = spec.space.path(next_level)
        expected = alpha * both[0](expected, level).denoised + sigma * both[1](expected, level).noise
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_list_of_levels_is_walked_and_begins_at_the_noise_of_an_init() -> None:
    objective, init = OBJECTIVES["rectified_flow"](), normal(1, 1, 8, seed=3)
    seen: list[float] = []

    def run(**settings: Any) -> Tensor:
        seen.clear()
        return sample(
            ideal(objective),
            normal(1, 1, 8),
            objective=objective,
            noise=_forbidden,
            callback=lambda info: seen.append(info.level),
            **settings,
        )

    levels = [1.0, 0.6, 0.2, 0.0]
    found = run(schedule=levels)
    assert seen == levels[:-1]
    assert torch.equal(found, run(schedule=torch.tensor(levels, dtype=torch.float64)))
    run(schedule=levels, sigma_max=0.5, init=init)
    assert seen == [0.5, 0.2]
    run(schedule=[80.0, 2.0, 0.1, 0.0], sampler="dpmpp-2m")
    assert seen == [80.0, 2.0, 0.1]


@pytest.mark.parametrize(
    ("objective", "levels", "message"),
    [
        ("rectified_flow", [1.0, 0.5], "must fall to 0, for example 1, 0.6, 0.2, 0; found 1, 0.5"),
        ("rectified_flow", [1.0, 0.5, 0.7, 0.0], "must fall to 0"),
        ("rectified_flow", [], "found nothing"),
        ("rectified_flow", [1.5, 0.5, 0.0], "begins at most at 1, found 1.5"),
        ("epsilon", [1.0, 0.5, 0.0], "begins at 1, but the model was trained up to 0.99"),
    ],
)
def test_a_list_that_cannot_be_walked_is_refused(objective: str, levels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(
            lambda x, t: x,
            normal(1, 1, 4),
            objective=OBJECTIVES[objective](),
            noise=_forbidden,
            sampler="euler" if objective == "rectified_flow" else "ddim",
            schedule=levels,
        )
