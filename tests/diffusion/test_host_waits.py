"""Sampling queues all of its work on the GPU without once waiting for it, with every sampler and backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.guidance_options import GuidanceOptions
from stable_audio.diffusion.known import KnownLatents
from stable_audio.diffusion.noise import SeededNoise
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.samplers import SAMPLERS
from stable_audio.diffusion.sampling import sample
from tests import tiny
from tests.backbones.test_contracts import build, conditioning
from tests.host_waits import DEVICE, no_waits

STEPS = 4


def guided(name: str, **options: Any) -> Guidance:
    """A tiny guided backbone on the device."""
    backbone = build(name).to(DEVICE).eval()
    cond = conditioning(backbone).to(device=DEVICE)
    return Guidance(backbone, OBJECTIVES["v"](), cond, options=GuidanceOptions(cfg_scale=3.0, **options))


def sampled(predict: Any, **settings: Any) -> Tensor:
    """Two clips on the device."""
    start = torch.zeros(2, 2, 16, device=DEVICE)
    settings = {"objective": OBJECTIVES["v"](), "steps": STEPS, **settings}
    with torch.no_grad(), no_waits():
        return sample(predict, start, noise=SeededNoise([1, 2]), **settings)


def constant(x: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(x)


ADAPTIVE = {"k-dpm-adaptive"}
"""Samplers that choose each step by the error of the last one, which they have to read."""


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - ADAPTIVE))
def test_samplers_do_not_wait_for_the_device(name: str) -> None:
    assert sampled(constant, sampler=name).device == DEVICE


@pytest.mark.parametrize("name", [name for name, spec in SAMPLERS.items() if spec.per_item])
def test_levels_per_item_do_not_wait_for_the_device(name: str) -> None:
    levels = torch.linspace(1, 0, STEPS + 1).expand(2, -1)
    objective = OBJECTIVES["rectified_flow"]()
    assert sampled(constant, sampler=name, schedule=levels, objective=objective).device == DEVICE


def test_known_latents_do_not_wait_for_the_device_whatever_the_levels() -> None:
    latents, mask = torch.zeros(2, 2, 16, device=DEVICE), torch.ones(2, 16, device=DEVICE)
    known = KnownLatents(latents=latents, mask=mask, repeats=2)
    for levels in (torch.linspace(1, 0, STEPS + 1), torch.linspace(1, 0, STEPS + 1).expand(2, -1)):
        settings = {"schedule": levels, "objective": OBJECTIVES["rectified_flow"](), "known": known}
        assert sampled(constant, sampler="euler", **settings).device == DEVICE


@pytest.mark.parametrize("name", tiny.BACKBONES)
def test_guided_backbones_do_not_wait_for_the_device(name: str) -> None:
    assert sampled(guided(name), sampler="ddim").device == DEVICE


def test_an_interval_of_guidance_does_not_wait_for_the_device() -> None:
    calls: list[int] = []
    predict = guided("dit", cfg_interval=(0.4, 0.9))
    predict._backbone.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))  # type: ignore
    assert sampled(predict, sampler="ddim").device == DEVICE
    assert calls == [2, 2, 4, 2]  # sigma is 1, 0.92, 0.71 and 0.38: both branches inside alone


def test_gates_of_adapters_do_not_wait_for_the_device() -> None:
    from types import SimpleNamespace

    from stable_audio.adapters.use import _gate_by_noise

    predict = guided("dit")
    seen: list[float] = []
    stack: Any = SimpleNamespace(gate=lambda sigma, gates: seen.append(round(sigma, 2)))
    gates: Any = {0: SimpleNamespace(open_at=lambda sigma: sigma)}
    _gate_by_noise(SimpleNamespace(objective=OBJECTIVES["v"](), backbone=predict._backbone), stack, gates)
    assert sampled(predict, sampler="ddim").device == DEVICE
    assert seen == [1.0, 0.92, 0.71, 0.38]
