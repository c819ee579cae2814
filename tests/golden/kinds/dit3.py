"""Kind `dit3`: forward passes of Stable Audio 3's transformer, with padding masks and local conditioning."""

from __future__ import annotations

from typing import Any

import torch

from stable_audio.diffusion.guidance import Guidance
from stable_audio.model import DiffusionModel
from stable_audio.types import Conditioning
from tests.golden.harness import Case
from tests.golden.kinds.assembly import build_model, given_tensors

DROPPED = {"local_add_cond": "local_add", "modular_local_cond": "modular_local"}
"""Name of a wired input in the cases -> field of `Conditioning`."""

GUIDANCE = ("cfg_scale", "apg_scale", "cfg_norm_threshold", "scale_phi", "cfg_interval")


def run(case: Case) -> dict[str, Any]:
    model = build_model(case)
    with torch.no_grad():
        assert model.conditioner is not None
        tensors = model.conditioner(case.extra["metadata"], "cpu")
        found: dict[str, Any] = {f"conditioner.{key}": value for key, (value, _) in tensors.items()}
        given = given_tensors(case, "cond")
        cond = model.wiring({**tensors, **given})
        negatives = model.conditioner(case.extra["neg_metadata"], "cpu")
        negative = model.wiring({**negatives, **given, **given_tensors(case, "neg")})
        for name, call in case.calls.items():
            found |= _call(case, model, cond, negative, name, call)
    return found


def _call(
    case: Case,
    model: DiffusionModel,
    cond: Conditioning,
    negative: Conditioning,
    name: str,
    call: dict[str, Any],
) -> dict[str, Any]:
    x, t, backbone = case.inputs["x"], case.inputs["t"], model.backbone
    cond = cond.replace(**{DROPPED[name]: None for name in call.get("drop", ())})
    if call.get("padding_mask"):
        cond = cond.replace(padding_mask=case.inputs["padding_mask"].bool())
    if "exit_layer_ix" in call:
        hidden = backbone.features(x, t, cond, layer=call["exit_layer_ix"])
        return {f"y.{name}": hidden}
    # The reference's defaults: projected guidance at full strength, no rescaling.
    options = {"apg_scale": 1.0, "scale_phi": 0.0, **{k: call[k] for k in GUIDANCE if k in call}}
    guidance = Guidance(
        backbone,
        model.objective,
        cond,
        negative=negative if call.get("negative") else None,
        **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()},
    )
    found = {f"y.{name}": guidance(x, t).value}
    if call.get("return_info"):
        found |= {f"y.{name}.hidden{i}": h for i, h in enumerate(backbone.hidden_states(x, t, cond))}
    return found
