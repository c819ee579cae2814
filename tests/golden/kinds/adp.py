"""Kind `adp`: conditioners, slots and guided outputs of the audio-diffusion-pytorch U-Nets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stable_audio.backbones import BACKBONES, UNCOND_BACKBONES
from stable_audio.backbones.base import Backbone
from stable_audio.conditioning import CONDITIONERS, MultiConditioner, SlotWiring
from stable_audio.diffusion.guidance import Guidance
from stable_audio.diffusion.objectives import OBJECTIVES
from stable_audio.types import Conditioning, ConditionTensors
from tests.golden.harness import Case, load_strict

_BACKBONE = "model.model."


@torch.no_grad()
def run(case: Case) -> dict[str, Any]:
    model = case.config["model"]
    state = case.weights()
    section = model.get("diffusion", model)
    registry = BACKBONES if "diffusion" in model else UNCOND_BACKBONES
    backbone = registry[section["type"]](**section["config"])
    load_strict(backbone, {k.removeprefix(_BACKBONE): v for k, v in state.items() if k.startswith(_BACKBONE)})
    backbone.train(case.spec["mode"] == "train")
    if "diffusion" not in model:
        return {"y": backbone(case.inputs["x"], case.inputs["t"], Conditioning())}
    conditioner = _conditioner(model["conditioning"])
    prefix = "conditioner."
    load_strict(conditioner, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    wiring = SlotWiring(
        cross_attn_ids=section.get("cross_attention_cond_ids", ()),
        global_ids=section.get("global_cond_ids", ()),
        prepend_ids=section.get("prepend_cond_ids", ()),
        input_concat_ids=section.get("input_concat_ids", ()),
    )
    tensors = conditioner(case.extra["metadata"], "cpu")
    cond = wiring({**tensors, **_given(case, "cond")})
    negative = None
    if case.extra.get("neg_metadata"):
        negative = wiring({**conditioner(case.extra["neg_metadata"], "cpu"), **_given(case, "neg")})
    found: dict[str, Any] = {f"conditioner.{i}": tensor for i, (tensor, _) in tensors.items()}
    found.update(_wired(cond))
    objective = OBJECTIVES[section.get("diffusion_objective", "v")]()
    for name, call in case.calls.items():
        guidance = Guidance(backbone, objective, cond, **_guidance(backbone, call, negative))
        output = guidance(case.inputs["x"], case.inputs["t"])
        found[f"y.{name}"] = output.value
        if output.uncond is not None:
            found[f"y.{name}.uncond"] = output.uncond
    return found


def _conditioner(config: dict[str, Any]) -> MultiConditioner:
    width = config["cond_dim"]
    built = {
        c["id"]: CONDITIONERS[c["type"]](**{"output_dim": width, **c["config"]}) for c in config["configs"]
    }
    return MultiConditioner(built, default_keys=config.get("default_keys"))


def _given(case: Case, kind: str) -> ConditionTensors:
    """Conditioning that the case holds as tensors."""
    group = case.group(f"in.{kind}")
    return {k: (v, group.get(f"{k}.mask")) for k, v in group.items() if not k.endswith(".mask")}


def _wired(cond: Conditioning) -> dict[str, Tensor | None]:
    return {
        "ci.cross_attn_cond": cond.cross_attn,
        "ci.cross_attn_mask": cond.cross_attn_mask,
        "ci.global_cond": cond.global_,
        "ci.input_concat_cond": cond.input_concat,
        "ci.prepend_cond": cond.prepend,
        "ci.prepend_cond_mask": cond.prepend_mask,
    }


def _guidance(backbone: Backbone, call: dict[str, Any], negative: Conditioning | None) -> dict[str, Any]:
    """Arguments of Guidance; the published code rescales only where `rescale_cfg` is set."""
    phi = call.get("scale_phi", backbone.default_scale_phi) if call.get("rescale_cfg") else 0.0
    return {
        "cfg_scale": call.get("cfg_scale", 1.0),
        "scale_phi": phi,
        "negative": negative if call.get("negative") else None,
    }
