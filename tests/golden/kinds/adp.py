"""Kind `adp`: conditioners, slots and guided outputs of the audio-diffusion-pytorch U-Nets."""

from __future__ import annotations

from typing import Any

import torch

from stable_audio.diffusion.guidance import Guidance, cfg_dropout
from stable_audio.types import Conditioning
from tests.golden.harness import Case
from tests.golden.kinds.assembly import bernoulli_replay, build_model, given_tensors
from tests.golden.kinds.dit import SLOTS


@torch.no_grad()
def run(case: Case) -> dict[str, Any]:
    model = build_model(case)
    x, t = case.inputs["x"], case.inputs["t"]
    if model.conditioner is None:
        return {"y": model(x, t, Conditioning())}
    tensors = model.conditioner(case.extra["metadata"], "cpu")
    found: dict[str, Any] = {f"conditioner.{key}": value for key, (value, _) in tensors.items()}
    cond = model.wiring({**tensors, **given_tensors(case, "cond")})
    found |= {name: v for name, field in SLOTS.items() if (v := getattr(cond, field)) is not None}
    negative = None
    if case.extra.get("neg_metadata"):
        against = model.conditioner(case.extra["neg_metadata"], "cpu")
        negative = model.wiring({**against, **given_tensors(case, "cond"), **given_tensors(case, "neg")})
    for name, call in case.calls.items():
        guidance = Guidance(
            model.backbone,
            model.objective,
            _dropped(model.backbone, cond, call),
            cfg_scale=call.get("cfg_scale", 1.0),
            # The published code rescales only where it is asked to, then by the backbone's default.
            scale_phi=call.get("scale_phi") if call.get("rescale_cfg") else 0.0,
            negative=negative if call.get("negative") else None,
        )
        output = guidance(x, t)
        found[f"y.{name}"] = output.value
        if call.get("return_info") and output.uncond is not None:
            found[f"y.{name}.uncond"] = output.uncond
    return found


def _dropped(backbone: Any, cond: Conditioning, call: dict[str, Any]) -> Conditioning:
    if not call.get("cfg_dropout_prob"):
        return cond
    return cfg_dropout(backbone, cond, call["cfg_dropout_prob"], bernoulli_replay(call["bernoulli"]))
