"""Kind `train`: average of weights, learning rates, timestep samplers; a case's contents tell which."""

from __future__ import annotations

from typing import Any

import torch

from stable_audio.diffusion.timesteps import LogitNormal, LogSnr, TruncatedLogitNormal
from stable_audio.optim import build_optimizer, build_scheduler
from tests.golden.harness import Case
from tests.golden.kinds import ema


def run(case: Case) -> dict[str, Any]:
    """Dispatch by what the case stores, not by its name."""
    if "marks" in case.extra:
        return ema.run(case)
    if "logits" in case.inputs:
        return run_timestep_samplers(case)
    return run_inverse_lr(case)


def run_inverse_lr(case: Case) -> dict[str, Any]:
    """The learning rate that each configured scheduler sets at `extra.steps`."""
    return {name: _rates(call, case.extra["steps"]) for name, call in case.calls.items()}


def _rates(call: dict[str, Any], steps: list[int]) -> torch.Tensor:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer({"type": "SGD", "config": {"lr": call["lr"]}}, [weight])
    scheduler = build_scheduler({"type": "InverseLR", "config": call["scheduler"]}, optimizer)
    rates = []
    for _ in range(max(steps) + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor([rates[s] for s in steps], dtype=torch.float64)


def run_timestep_samplers(case: Case) -> dict[str, Any]:
    """Every sampler, fed with the stored normal draws."""
    normal = case.inputs["logits"]
    found: dict[str, Any] = {"logit_normal": LogitNormal().transform(normal)}
    for name, options in case.calls.get("trunc", {}).items():
        found[f"trunc.{name}"] = TruncatedLogitNormal(**options).transform(normal)
    for name, options in case.calls.get("logsnr", {}).items():
        found[f"logsnr.{name}"] = LogSnr(**options).transform(normal)
    return found
