"""Kind `pipe`: the whole generation, from conditioning dicts to latents or audio."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stable_audio.inference import generate
from stable_audio.model import DiffusionModel
from tests.golden.harness import Case, Replay
from tests.golden.kinds.assembly import build_model

_PASSED_ON = frozenset(
    {"steps", "cfg_scale", "sigma_min", "sigma_max", "rho", "scale_phi", "init_noise_level", "return_latents"}
)
_FLAGS = frozenset({"init", "inpaint", "mask", "neg", "sampler_type", "cfg_interval"})


def run(case: Case) -> dict[str, Any]:
    model = build_model(case)
    return {name: _generated(case, model, call) for name, call in case.calls.items()}


def _generated(case: Case, model: DiffusionModel, call: dict[str, Any]) -> Tensor:
    inputs, extra = case.inputs, case.extra
    arguments: dict[str, Any] = {k: v for k, v in call.items() if k in _PASSED_ON}
    if call.get("init"):
        arguments["init_audio"] = inputs["init_audio"]
    if call.get("inpaint"):
        arguments["inpaint_audio"] = inputs["inpaint_audio"]
    if call.get("mask"):
        arguments["inpaint_mask"] = inputs["inpaint_mask"]
    if call.get("neg"):
        arguments["negative_conditioning"] = extra["negative_conditioning"]
    if "cfg_interval" in call:
        arguments["cfg_interval"] = tuple(call["cfg_interval"])
    options = {k: v for k, v in call.items() if k not in _PASSED_ON | _FLAGS}
    return generate(
        model,
        extra["conditioning"],
        seeds=extra.get("seed", 0),
        sampler=call.get("sampler_type"),
        sampler_options=options,
        sample_size=extra["sample_size"],
        start_noise=inputs["noise"],
        noise=Replay(inputs["steps_noise"]),
        # One draw belongs to the init audio and one to the audio to keep, whichever of them is used.
        encoder_noise=Replay(inputs["vae_noise"][0 if call.get("init") else 1 :]),
        **arguments,
    )
