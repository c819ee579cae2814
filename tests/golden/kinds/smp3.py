"""Kinds `shift` and `smp3`: shifted schedules, per item too, and the samplers that walk them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.diffusion.sampling import sample
from stable_audio.diffusion.schedules import build_schedule
from stable_audio.diffusion.shift import DEFAULT_SHIFT, SHIFTS, TimeShift
from stable_audio.diffusion.spaces import FLOW
from tests.golden.harness import Case, Replay
from tests.golden.kinds.samplers import toy


def run_shift(case: Case) -> dict[str, Any]:
    return {name: _shifted(case, call) for name, call in case.calls.items()}


def shift_of(options: dict[str, Any] | None) -> TimeShift | None:
    if options is None:
        return None
    return SHIFTS[options.get("type", DEFAULT_SHIFT)](**{k: v for k, v in options.items() if k != "type"})


def _shifted(case: Case, call: dict[str, Any]) -> Tensor:
    shift, lengths = shift_of(call["options"]), call["lengths"]
    if call["fn"] == "train":
        assert shift is not None
        return shift(case.inputs["t"], lengths if isinstance(lengths, int) else torch.tensor(lengths))
    levels = _schedule(call)
    return levels if call.get("include_endpoint", True) else levels[..., :-1]


def _schedule(call: dict[str, Any]) -> Tensor:
    return build_schedule(
        "shifted",
        call["steps"],
        space=FLOW,
        sigma_max=call.get("sigma_max", 1.0),
        shift=shift_of(call["options"]),
        length=call.get("lengths", 1),
    )


def run_smp3(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, call in case.calls.items():
        trace: list[Tensor] = []
        found[name] = sample(
            toy(case.weights()),
            case.inputs["noise"],
            objective=OBJECTIVES["rectified_flow"](),
            noise=Replay(case.inputs["steps_noise"]),
            sampler=call["sampler"],
            steps=call["steps"],
            schedule="shifted",
            sigma_max=call.get("sigma_max", 1.0),
            shift=shift_of(call["options"]),
            lengths=call.get("lengths", 1),
            init=case.inputs["init"] if call.get("init") else None,
            callback=lambda info, seen=trace: seen.append(info.denoised),
        )
        found[f"{name}.sigmas"] = _schedule(call)
        if call.get("trace"):
            found[f"{name}.denoised"] = torch.stack(trace)
    return found
