from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stable_audio.backbones.unet.embedding import TimeEmbedding, TimeOptions
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES, EpsilonObjective, X0Objective
from stable_audio.diffusion.processes import DDPMProcess, FlowProcess, Process
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.schedules import SCHEDULES, STEP_SCHEDULES, build_schedule
from stable_audio.diffusion.spaces import VE, VP
from tests.diffusion.gaussian import MEAN, STD, exact, ideal, normal

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def _literal_alphas(kind: str, steps: int, start: float, end: float) -> list[float]:
    """alpha_i by the formulas of the papers, one number at a time."""
    alphas, product = [], 1.0
    for i in range(steps):
        share = i / (steps - 1)
        if kind == "linear":
            beta = start + share * (end - start)
        elif kind == "scaled_linear":
            beta = (math.sqrt(start) + share * (math.sqrt(end) - math.sqrt(start))) ** 2
        else:
            f = [math.cos(((i + d) / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for d in (0, 1)]
            beta = min(1 - f[1] / f[0], 0.999)
        product *= 1 - beta
        alphas.append(math.sqrt(product))
    return alphas


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 50, 1000])
def test_steps_have_the_scales_of_the_papers(kind: str, steps: int) -> None:
    process = DDPMProcess(steps=steps, beta_schedule=kind, beta_start=0.001, beta_end=0.03)
    expected = torch.tensor(_literal_alphas(kind, steps, 0.001, 0.03), dtype=torch.float64)
    alpha, sigma = process.alpha_sigma(torch.arange(steps, dtype=torch.float64) / (steps - 1))
    assert torch.allclose(alpha, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(sigma, (1 - expected**2).sqrt(), rtol=1e-9)


def test_known_ends_of_stable_diffusion() -> None:
    low, high = EpsilonObjective(process=DDPMProcess(**STABLE_DIFFUSION)).ratios
    assert (low, high) == pytest.approx((0.0292, 14.6146), abs=1e-4)  # k-diffusion, EulerDiscrete


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
def test_zero_terminal_snr_moves_the_last_step_to_noise_and_leaves_the_first(kind: str) -> None:
    plain = DDPMProcess(beta_schedule=kind).alphas
    process = DDPMProcess(beta_schedule=kind, zero_terminal_snr=True)
    assert process.ends_in_noise
    assert process.alphas[-1] == 0
    assert process.alphas[0] == pytest.approx(float(plain[0]), rel=1e-12)
    # Lin et al., algorithm 1: sqrt(alphas_cumprod) goes through one affine map.
    gap = plain[0] - plain[-1]
    assert torch.allclose(process.alphas, (plain - plain[-1]) * plain[0] / gap, atol=1e-12)


def test_a_step_is_its_own_time_for_training_samplers_and_networks() -> None:
    """Step i has t = i / 999 everywhere, and a network that counts steps is told i."""
    process = DDPMProcess(**STABLE_DIFFUSION)
    steps = torch.arange(1000)
    t = steps.float() / 999
    assert torch.equal(process.grid(t), t)
    embedding = TimeEmbedding(TimeOptions(steps=1000), 8)
    assert torch.equal(embedding.positions(t), steps.float())
    for i in (0, 1, 20, 498, 981, 999):
        assert process.time(process.level(i / 999)) * 999 == pytest.approx(i, abs=1e-6)


def test_uniform_times_give_every_step_the_same_share() -> None:
    process = DDPMProcess(steps=10)
    t = process.grid((torch.arange(1000) + 0.5) / 1000)
    counts = (t * 9).round().long().bincount(minlength=10)
    assert counts.tolist() == [100] * 10
    assert process.grid(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]
    assert torch.equal(OBJECTIVES["v"]().process.grid(t), t)


@pytest.mark.parametrize("process", [DDPMProcess(steps=40), DDPMProcess(zero_terminal_snr=True)])
def test_times_and_levels_between_steps_agree(process: Process) -> None:
    times = torch.linspace(0, 1, 301, dtype=torch.float64)
    levels = [process.level(t) for t in times.tolist()]
    assert levels == sorted(levels)
    assert [process.time(level) for level in levels] == pytest.approx(times.tolist(), abs=1e-9)
    alpha, sigma = process.alpha_sigma(times)
    for i, level in enumerate(levels):
        assert VP.path(level) == pytest.approx((float(alpha[i]), float(sigma[i])), abs=1e-9)
    assert (process.time(0.0), process.time(1.0)) == (0.0, 1.0)


def test_the_meta_device_is_no_obstacle() -> None:
    with torch.device("meta"):
        process = DDPMProcess(steps=8)
    assert process.max_level == DDPMProcess(steps=8).max_level


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "at least 2, found 1"),
        ({"beta_start": 0.1, "beta_end": 0.01}, "beta_start 0.1, beta_end 0.01"),
        ({"beta_start": 0.0}, "beta_start 0.0"),
        ({"beta_schedule": "squared"}, "linear, scaled_linear, cosine, found 'squared'"),
    ],
)
def test_bad_numbers_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDPMProcess(**options)


def test_objectives_refuse_processes_on_which_they_mean_nothing() -> None:
    with pytest.raises(ValueError, match="'rectified_flow' is defined for processes of the space flow"):
        OBJECTIVES["rectified_flow"](process=DDPMProcess())
    with pytest.raises(ValueError, match="'v' is defined"):
        OBJECTIVES["v"](process=FlowProcess())
    with pytest.raises(ValueError, match="pure noise, where 'epsilon' determines nothing"):
        EpsilonObjective(process=DDPMProcess(zero_terminal_snr=True))


@pytest.mark.parametrize("name", ["epsilon", "x0"])
def test_one_formula_on_every_process(name: str) -> None:
    x0, noise = normal(3, 2, 5), normal(3, 2, 5, seed=1)
    t = torch.tensor([0.2, 0.5, 0.9])
    for process in (None, FlowProcess(), DDPMProcess()):
        objective = OBJECTIVES[name](process=process)
        alpha, sigma = (v.view(3, 1, 1) for v in objective.alpha_sigma(t))
        x_t = objective.noisy(x0, noise, t)
        assert torch.equal(x_t, alpha * x0 + sigma * noise)
        assert torch.equal(objective.target(x0, noise, t), noise if name == "epsilon" else x0)
        other = normal(3, 2, 5, seed=2)
        denoised, estimate = objective.denoised(other, x_t, t), objective.noise(other, x_t, t)
        assert torch.allclose(alpha * denoised + sigma * estimate, x_t, atol=1e-5)


def test_data_without_noise_has_no_noise_estimate_that_explodes() -> None:
    objective = X0Objective()
    output, x = normal(1, 1, 4), normal(1, 1, 4, seed=1)
    assert torch.equal(objective.noise_at(output, x, 1.0, 0.0), torch.zeros_like(x))
    assert torch.equal(objective.noise(output, x, torch.zeros(1)), torch.zeros_like(x))


@pytest.mark.parametrize("name", STEP_SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000])
def test_step_schedules_fall_through_steps_that_exist(name: str, steps: int) -> None:
    objective = EpsilonObjective(process=DDPMProcess(**STABLE_DIFFUSION))
    levels = build_schedule(name, steps, space=VP, objective=objective)
    assert len(levels) == steps + 1
    assert (levels.diff() < 0).all()
    numbers = [objective.process.time(v) * 999 for v in levels[:-1].tolist()]
    assert numbers == pytest.approx([round(n) for n in numbers], abs=1e-6)
    to_first = name == "ddim" and steps < 1000
    assert levels[-1] == (objective.process.min_level if to_first else 0.0)
    sigmas = build_schedule(name, steps, space=VE, objective=objective)
    assert sigmas[0] <= objective.ratios[1] * (1 + 1e-9)


def test_known_steps() -> None:
    objective = EpsilonObjective(process=DDPMProcess())

    def numbers(name: str, steps: int, **options: float) -> list[int]:
        levels = build_schedule(name, steps, space=VP, objective=objective, **options)
        return [round(objective.process.time(v) * 999) for v in levels[:-1].tolist()]

    assert numbers("leading", 5) == [801, 601, 401, 201, 1]
    assert numbers("trailing", 5) == [999, 799, 599, 399, 199]
    assert numbers("linspace", 5) == [999, 749, 500, 250, 0]
    assert numbers("trailing", 5, sigma_max=0.5) == [499, 399, 299, 199, 99]
    assert numbers("leading", 50, sigma_max=0.01) == list(range(9, -1, -1))


def test_schedules_stay_within_what_was_learned() -> None:
    objective = EpsilonObjective(process=DDPMProcess(**STABLE_DIFFUSION))
    low, high = objective.ratios
    for name in SCHEDULES:
        levels = build_schedule(name, 10, space=VE, objective=objective)
        assert levels[0] == pytest.approx(high, rel=1e-9)
    levels = build_schedule("karras", 10, space=VE, objective=objective)
    assert levels[-2] == pytest.approx(low, rel=1e-9)


def test_schedules_of_steps_need_steps() -> None:
    with pytest.raises(ValueError, match=r"'leading' counts the steps of a 'ddpm' process.*linear, logsnr"):
        build_schedule("leading", 4, space=VP, objective=OBJECTIVES["v"]())
    with pytest.raises(ValueError, match="give 1 to 10, found 20"):
        build_schedule("ddim", 20, space=VP, objective=EpsilonObjective(process=DDPMProcess(steps=10)))


def _forbidden(like: Tensor, t_from: float | None = None, t_to: float | None = None) -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


DETERMINISTIC = sorted(
    set(SAMPLERS) - {"dpmpp-2m-sde", "dpmpp-3m-sde", "k-dpmpp-2s-ancestral", "pingpong", "ddpm"}
)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("objective_name", ["epsilon", "x0", "v"])
def test_every_sampler_follows_the_exact_flow_of_a_ddpm_process(name: str, objective_name: str) -> None:
    """Noise of unit variance at the last step -> the data that the probability flow takes it to."""
    objective = OBJECTIVES[objective_name](process=DDPMProcess())
    noise = normal(2, 3, 50)
    tight = {"rtol": 1e-3, "atol": 1e-3} if name == "k-dpm-adaptive" else {}
    x = sample(
        ideal(objective), noise, objective=objective, sampler=name, steps=200, noise=_forbidden, options=tight
    )
    process = objective.process
    expected = exact(noise, VP, process.max_level, 0.0)
    # First-order methods set the bound. Those that end at the first step stop 0.01 before the data.
    assert torch.allclose(x, expected, atol=0.05)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_all_ancestral_steps_reach_the_distribution(variance: str) -> None:
    objective = EpsilonObjective(process=DDPMProcess())
    x = sample(
        ideal(objective),
        normal(4, 2, 2000),
        objective=objective,
        sampler="ddpm",
        steps=1000,
        noise=SeededNoise([1, 2, 3, 4]),
        options={"variance": variance},
    )
    assert x.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert x.std().item() == pytest.approx(STD, rel=0.03)


@pytest.mark.slow
def test_a_process_that_ends_in_noise_is_sampled_from_noise_by_every_sampler() -> None:
    objective = OBJECTIVES["v"](process=DDPMProcess(zero_terminal_snr=True))
    seen: list[float] = []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return ideal(objective)(x, t)

    for name in DETERMINISTIC:
        seen.clear()
        options = {"rtol": 1e-3, "atol": 1e-3} if name == "k-dpm-adaptive" else {}
        noise = normal(1, 2, 50)
        steps = 500
        x = sample(
            predict,
            noise,
            objective=objective,
            sampler=name,
            steps=steps,
            noise=_forbidden,
            options=options,
        )
        assert round(seen[0] * 999) == 999, name
        assert torch.allclose(x, exact(noise, VP, 1.0, 0.0), atol=0.05), name


def test_numbers_of_steps_that_fill_the_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1000000, found 1000000000"):
        DDPMProcess(steps=10**9)
