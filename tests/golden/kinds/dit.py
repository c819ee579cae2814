"""Kind `dit`: conditioners, wiring, guidance and the transformer, forward passes only."""

from __future__ import annotations

from typing import Any

import torch

from stable_audio.diffusion.guidance import Guidance, cfg_dropout, unconditional
from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning, ConditionTensors
from tests.golden.harness import Case
from tests.golden.kinds.assembly import bernoulli_replay, build_model, given_tensors

SLOTS = {
    "ci.cross_attn_cond": "cross_attn",
    "ci.cross_attn_mask": "cross_attn_mask",
    "ci.global_cond": "global_cond",
    "ci.input_concat_cond": "input_concat",
    "ci.prepend_cond": "prepend",
    "ci.prepend_cond_mask": "prepend_mask",
}


def run(case: Case) -> dict[str, Any]:
    model = case.config["model"]
    with torch.no_grad():
        return run_conditioned(case) if "diffusion" in model else run_unconditional(case)


def run_unconditional(case: Case) -> dict[str, Any]:
    model = build_model(case)
    return {"y": model(case.inputs["x"], case.inputs["t"], Conditioning())}


def run_conditioned(case: Case) -> dict[str, Any]:
    model = build_model(case)
    tensors = _run_conditioners(model, case.extra.get("metadata"))
    found: dict[str, Any] = {f"conditioner.{key}": value for key, (value, _) in tensors.items()}
    cond = model.wiring({**tensors, **given_tensors(case, "cond")})
    found |= {name: v for name, field in SLOTS.items() if (v := getattr(cond, field)) is not None}
    negative = model.wiring(
        {
            **(_run_conditioners(model, case.extra.get("neg_metadata")) or tensors),
            **given_tensors(case, "cond"),
            **given_tensors(case, "neg"),
        }
    )
    for name, call in case.calls.items():
        found |= _call(case, model, cond, negative if call.get("negative") else None, name, call)
    return found


def _run_conditioners(model: DiffusionModel, metadata: list[dict[str, Any]] | None) -> ConditionTensors:
    return model.conditioner(metadata, "cpu") if model.conditioner is not None and metadata else {}


def _call(
    case: Case,
    model: DiffusionModel,
    cond: Conditioning,
    negative: Conditioning | None,
    name: str,
    call: dict[str, Any],
) -> dict[str, Any]:
    x, t, backbone = case.inputs["x"], case.inputs["t"], model.backbone
    if "exit_layer_ix" in call:
        return {f"y.{name}": backbone.features(x, t, cond, layer=call["exit_layer_ix"])}
    if call.get("cfg_dropout_prob") and call.get("cfg_scale", 1.0) == 1.0:
        draws = bernoulli_replay(call["bernoulli"])
        cond = cfg_dropout(backbone, cond, call["cfg_dropout_prob"], draws)
    guidance = Guidance(
        backbone,
        model.objective,
        cond,
        cfg_scale=call.get("cfg_scale", 1.0),
        scale_phi=call.get("scale_phi", 0.0),
        cfg_interval=tuple(call.get("cfg_interval", (0.0, 1.0))),
        negative=negative,
    )
    output = guidance(x, t)
    found = {f"y.{name}": output.value}
    if call.get("return_info"):
        if output.uncond is not None:
            found[f"y.{name}.uncond"] = output.uncond
            both = [cond, unconditional(backbone, cond, negative)]
            x, t, cond = torch.cat([x, x]), torch.cat([t, t]), Conditioning.cat(both)
        hidden = backbone.hidden_states(x, t, cond)
        found |= {f"y.{name}.hidden{i}": h for i, h in enumerate(hidden)}
    return found
