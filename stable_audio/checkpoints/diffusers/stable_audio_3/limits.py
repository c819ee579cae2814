"""Reasons why diffusers' layout of Stable Audio 3 cannot hold a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.checkpoints.diffusers.arguments import misfits, shown
from stable_audio.checkpoints.diffusers.sections import (
    Conditioners,
    Parts,
    backbone_misfits,
    coder_arguments,
    conditioner_misfits,
    diffusion_misfits,
    part_misfits,
    pretransform_misfits,
    section_defaults,
    unequal_keys,
)
from stable_audio.checkpoints.diffusers.stable_audio_3 import tables
from stable_audio.checkpoints.diffusers.stable_audio_3.tables import TEXT, TOTAL
from stable_audio.conditioning.scalars import NumberConditioner
from stable_audio.conditioning.t5gemma import T5GemmaConditioner
from stable_audio.config.sections.diffusion import ConditioningSection
from stable_audio.pretransforms.bottlenecks.continuous import SoftNormBottleneck
from stable_audio.pretransforms.patched import PatchedPretransform
from stable_audio.pretransforms.same import SAMEDecoder, SAMEEncoder

CONDITIONERS: Conditioners = {
    TEXT: ("t5gemma", T5GemmaConditioner, tables.T5GEMMA),
    TOTAL: ("number", NumberConditioner, tables.NUMBER),
}

PARTS: Parts = {
    "encoder": ("same", SAMEEncoder, tables.ENCODER, tables.PART),
    "decoder": ("same", SAMEDecoder, tables.DECODER, {**tables.PART, "soft_clip": tables.only(False)}),
    "bottleneck": ("softnorm", SoftNormBottleneck, tables.SOFTNORM, tables.PART),
    "pretransform": ("patched", PatchedPretransform, tables.PATCHED, tables.PATCHED_SECTION),
}

SECTION = {"soft_clip": False, "scale": 1.0}
"""Defaults of the sections of these parts, where they matter."""

MODELS = ("diffusion_cond_inpaint", "diffusion_cond")


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """Reasons why the layout cannot hold a whole model, parts of a sentence; empty if it can."""
    if (model_type := config.get("model_type")) not in MODELS:
        return [f"model_type is {shown(model_type)}, only {shown(MODELS[0])} fits"]
    model = config["model"]
    return [
        *unsupported_backbone(config),
        *diffusion_misfits(model["diffusion"], tables.WIRING),
        *_conditioning(model.get("conditioning") or {}),
        *pretransform_misfits(
            model.get("pretransform") or {}, tables.first.PRETRANSFORM, unsupported_autoencoder
        ),
    ]


def unsupported_backbone(config: Mapping[str, Any]) -> list[str]:
    """Reasons why the layout cannot hold the backbone."""
    return backbone_misfits(config, arguments=tables.DIT, objective=tables.OBJECTIVE)


def unsupported_autoencoder(spec: Mapping[str, Any], path: str = "model") -> list[str]:
    """Reasons why the layout cannot hold an autoencoder, whose section is at the JSON path `path`."""
    reasons = list(misfits(tables.AUTOENCODER, spec, path, defaults={}))
    reasons += part_misfits(spec, path, parts=PARTS, defaults=SECTION)
    if coders := coder_arguments(spec, PARTS):
        held = [key for key, treatment in tables.STAGES.items() if isinstance(treatment, tables.Held)]
        reasons += [*unequal_keys(*coders, held, path), *_equal_widths(coders[0], path)]
    return reasons


def _equal_widths(encoder: Mapping[str, Any], path: str) -> Iterator[str]:
    widths = [encoder["in_channels"], *(m * encoder["channels"] for m in encoder["c_mults"])]
    if any(a == b for a, b in itertools.pairwise(widths)):
        yield (
            f"{path}.encoder.config.c_mults gives neighbouring stages one width ({shown(widths)}), only "
            "different ones fit: the layout has no convolution between equal ones"
        )


def _conditioning(section: Mapping[str, Any]) -> list[str]:
    path = "model.conditioning"
    defaults = section_defaults(ConditioningSection)
    reasons = list(misfits(tables.CONDITIONING, section, path, defaults=defaults))
    entries = {e["id"]: (f"{path}.configs[{i}]", e) for i, e in enumerate(section.get("configs") or [])}
    for name, (at, entry) in entries.items():
        reasons += conditioner_misfits(
            name, at, entry, cond_dim=section["cond_dim"], conditioners=CONDITIONERS
        )
    if absent := [name for name in CONDITIONERS if name not in entries]:
        reasons.append(f"{path}.configs lacks {', '.join(absent)}")
    return reasons
