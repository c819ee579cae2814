"""The same network, noise and steps through the schedulers of diffusers and through our samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.processes import DDPMProcess
from stable_audio.diffusion.sampling import sample
from tests.diffusion.gaussian import normal

diffusers = pytest.importorskip("diffusers")

STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}

Network = Callable[[Tensor, float], Tensor]
"""(x, number of the step, 0 .. 999) -> output."""


def network(x: Tensor, step: float) -> Tensor:
    """Nonlinear, mixes channels and positions, depends on the step."""
    return torch.tanh(x + 0.5 * x.roll(1, 1) - 0.3 * x.roll(1, -1) + 0.001 * step) * (0.5 + step / 2000)


def ours(start: Tensor, objective_name: str, process: DDPMProcess, draws: list[Tensor], **options: Any):
    steps_seen: list[float] = []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        step = float(t[0]) * 999
        assert step == pytest.approx(round(step), abs=1e-3)
        steps_seen.append(round(step))
        return network(x, round(step))

    def noise(like: Tensor, t_from: float | None = None, t_to: float | None = None) -> Tensor:
        draws.append(normal(*like.shape, seed=len(draws) + 10))
        return draws[-1]

    x = sample(predict, start, objective=OBJECTIVES[objective_name](process=process), noise=noise, **options)
    return x, steps_seen


def theirs(scheduler: Any, start: Tensor, steps: int, **step: Any) -> tuple[Tensor, list[int]]:
    """The loop of a diffusers pipeline."""
    scheduler.set_timesteps(steps)
    x = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(output, t, x, **step).prev_sample
    return x, [round(float(t)) for t in scheduler.timesteps]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [4, 50])
def test_stable_diffusion_samples_as_published(prediction: str, steps: int) -> None:
    """The scheduler_config.json of Stable Diffusion 1: DDIM from step 981 on, ending at step 0."""
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        **STABLE_DIFFUSION,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=PREDICTIONS[prediction],
    )
    start = normal(2, 4, 8)
    expected, timesteps = theirs(scheduler, start, steps)
    process = DDPMProcess(**STABLE_DIFFUSION)
    x, seen = ours(start, prediction, process, [], sampler="ddim", steps=steps)
    assert seen == timesteps
    assert torch.allclose(x, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", ["euler", "ddim", "k-lms"])
def test_euler_steps_of_stable_diffusion(prediction: str, sampler: str) -> None:
    """Euler in any space is DDIM that ends at the data."""
    scheduler = diffusers.EulerDiscreteScheduler(
        num_train_timesteps=1000,
        **STABLE_DIFFUSION,
        timestep_spacing="leading",
        steps_offset=1,
        prediction_type=PREDICTIONS[prediction],
    )
    start = normal(2, 4, 8)
    expected, timesteps = theirs(scheduler, start, 20)
    process = DDPMProcess(**STABLE_DIFFUSION)
    options = {"order": 1} if sampler == "k-lms" else {}
    x, seen = ours(
        start, prediction, process, [], sampler=sampler, schedule="leading", steps=20, options=options
    )
    assert seen == timesteps
    assert torch.allclose(x, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ancestral_steps(kind: str, variance: str, prediction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[Tensor] = []
    process, start = DDPMProcess(beta_schedule=kind), normal(2, 4, 8)
    options = {"variance": variance, "clip": 1.0}
    x, seen = ours(start, prediction, process, draws, sampler="ddpm", steps=50, options=options)

    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule=BETAS[kind],
        timestep_spacing="trailing",
        variance_type=f"fixed_{variance}",
        prediction_type=PREDICTIONS[prediction],
        clip_sample=True,
    )
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    replay = iter(draws)
    # diffusers draws at the last step too, unless it is step 0.
    monkeypatch.setattr(module, lambda shape, **options: next(replay, torch.zeros(shape)))
    expected, timesteps = theirs(scheduler, start, 50)
    assert next(replay, None) is None
    assert seen == timesteps
    assert torch.allclose(x, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_ddim_with_zero_terminal_snr(eta: float, prediction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[Tensor] = []
    process, start = DDPMProcess(**STABLE_DIFFUSION, zero_terminal_snr=True), normal(2, 4, 8)
    options = {"eta": eta}
    x, seen = ours(start, prediction, process, draws, sampler="ddim", steps=25, options=options)

    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        **STABLE_DIFFUSION,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        prediction_type=PREDICTIONS[prediction],
    )
    replay = iter(draws)
    # diffusers draws at the last step too, where the deviation is 0.
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddim.randn_tensor",
        lambda shape, **options: next(replay, torch.zeros(shape)),
    )
    expected, timesteps = theirs(scheduler, start, 25, eta=eta)
    assert seen == timesteps
    assert seen[0] == 999
    assert torch.allclose(x, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", BETAS)
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_training_noises_as_diffusers_does(kind: str, zero_terminal_snr: bool) -> None:
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=1000, beta_schedule=BETAS[kind], rescale_betas_zero_snr=zero_terminal_snr
    )
    process = DDPMProcess(beta_schedule=kind, zero_terminal_snr=zero_terminal_snr)
    objective = OBJECTIVES["v"](process=process)
    steps = torch.tensor([0, 1, 500, 998, 999])
    x0, noise = normal(5, 2, 6), normal(5, 2, 6, seed=1)
    x_t = objective.noisy(x0, noise, steps.float() / 999)
    assert torch.allclose(x_t, scheduler.add_noise(x0, noise, steps), atol=1e-4)
    assert torch.allclose(
        objective.target(x0, noise, steps.float() / 999), scheduler.get_velocity(x0, noise, steps), atol=1e-4
    )
