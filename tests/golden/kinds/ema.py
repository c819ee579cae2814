"""Golden `train` cases that follow an average of weights (those with `extra.marks`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from stable_audio.training.optimisation.ema import EMA
from tests.golden.harness import Case

# What the library behind the reference does when nothing is said.
LIBRARY_DEFAULTS = {"beta": 0.9999, "power": 2 / 3, "update_every": 10, "update_after_step": 100}


class _Moving(nn.Module):
    def __init__(self, weight: torch.Tensor, buffer: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.register_buffer("buffer", buffer.clone())


def run(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, options in case.calls.items():
        found.update({f"{name}.{k}": v for k, v in _follow(case, options).items()})
    return found


def _follow(case: Case, options: dict[str, Any]) -> dict[str, Any]:
    start, delta, buffer = (case.inputs[k] for k in ("p0", "delta", "buf0"))
    module = _Moving(start, buffer)
    ema = EMA(module, **{**LIBRARY_DEFAULTS, **options})
    found: dict[str, Any] = {}
    for k in range(1, max(case.extra["marks"]) + 1):
        with torch.no_grad():
            module.weight.copy_(start + k * delta * math.cos(0.1 * k))
            module.buffer.copy_(k * buffer)
        ema.update()
        if k in case.extra["marks"]:
            found[f"w.{k}"] = ema.average["weight"].clone()
            found[f"buf.{k}"] = ema.average["buffer"].clone()
            found[f"decay.{k}"] = torch.tensor(ema.decay())
    return found
