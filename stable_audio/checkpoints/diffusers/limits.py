"""Reasons why diffusers' Stable Audio layout cannot hold a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.checkpoints.diffusers import tables
from stable_audio.checkpoints.diffusers.arguments import defaults_of, misfits, shown
from stable_audio.checkpoints.diffusers.sections import (
    Conditioners,
    Parts,
    backbone_misfits,
    coder_arguments,
    conditioner_arguments,
    conditioner_misfits,
    diffusion_misfits,
    part_misfits,
    pretransform_misfits,
    section_defaults,
    unequal_keys,
)
from stable_audio.checkpoints.diffusers.tables import START, TEXT, TOTAL
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.conditioning.scalars import NumberConditioner
from stable_audio.conditioning.t5 import T5Conditioner
from stable_audio.config.sections.diffusion import ConditioningSection
from stable_audio.pretransforms.bottlenecks.continuous import VAEBottleneck
from stable_audio.pretransforms.oobleck import OobleckDecoder, OobleckEncoder

CONDITIONERS: Conditioners = {
    TEXT: ("t5", T5Conditioner, tables.T5),
    START: ("number", NumberConditioner, tables.NUMBER),
    TOTAL: ("number", NumberConditioner, tables.NUMBER),
}

PARTS: Parts = {
    "encoder": ("oobleck", OobleckEncoder, tables.OOBLECK_ENCODER, tables.PART),
    "decoder": ("oobleck", OobleckDecoder, tables.OOBLECK_DECODER, tables.DECODER_PART),
    "bottleneck": ("vae", VAEBottleneck, tables.VAE, tables.PART),
}


def refuse(reasons: list[str], *, layout: str = "Stable Audio") -> None:
    """Raise CheckpointError with all reasons, if there are any."""
    if reasons:
        raise CheckpointError(
            f"diffusers' {layout} layout cannot hold this model: {'; '.join(reasons)}. "
            "The layouts ours and sat hold every model"
        )


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """Reasons why the layout cannot hold a whole model, parts of a sentence; empty if it can."""
    if (model_type := config.get("model_type")) != "diffusion_cond":
        return [f"model_type is {shown(model_type)}, only 'diffusion_cond' fits"]
    model = config["model"]
    return [
        *unsupported_backbone(config),
        *diffusion_misfits(model["diffusion"], tables.WIRING),
        *_conditioning(model.get("conditioning")),
        *_pretransform(model.get("pretransform")),
    ]


def unsupported_backbone(config: Mapping[str, Any]) -> list[str]:
    """Reasons why the layout cannot hold the backbone."""
    return backbone_misfits(config, arguments=tables.DIT, objective=tables.OBJECTIVE)


def unsupported_autoencoder(spec: Mapping[str, Any], path: str = "model") -> list[str]:
    """Reasons why the layout cannot hold an autoencoder, whose section is at the JSON path `path`."""
    reasons = list(misfits(tables.AUTOENCODER, spec, path, defaults={}))
    if coders := coder_arguments(spec, PARTS):
        reasons += unequal_keys(*coders, ["c_mults", "strides"], path)
    return [*reasons, *part_misfits(spec, path, parts=PARTS, defaults={"soft_clip": False})]


def _pretransform(section: Mapping[str, Any] | None) -> list[str]:
    if section is None:
        return ["model.pretransform is absent, but a pipeline needs an autoencoder"]
    return pretransform_misfits(section, tables.PRETRANSFORM, unsupported_autoencoder)


def _conditioning(section: Mapping[str, Any] | None) -> list[str]:
    path = "model.conditioning"
    if section is None:
        return [f"{path} is absent, but a pipeline needs the conditioners {', '.join(CONDITIONERS)}"]
    reasons = list(
        misfits(tables.CONDITIONING, section, path, defaults=section_defaults(ConditioningSection))
    )
    entries = {e["id"]: (f"{path}.configs[{i}]", e) for i, e in enumerate(section.get("configs") or [])}
    for name, (at, entry) in entries.items():
        reasons += conditioner_misfits(
            name, at, entry, cond_dim=section["cond_dim"], conditioners=CONDITIONERS
        )
    absent = [name for name in CONDITIONERS if name not in entries]
    if absent:
        return [*reasons, f"{path}.configs lacks {', '.join(absent)}"]
    return reasons + list(_unequal(entries, section["cond_dim"]))


def _unequal(entries: Mapping[str, tuple[str, Mapping[str, Any]]], cond_dim: int) -> Iterator[str]:
    """Differences between the conditioners: all three need one width, both numbers one range."""
    for name, other, keys in (
        (START, TEXT, ("output_dim",)),
        (TOTAL, START, ("output_dim", "min_val", "max_val")),
    ):
        (path, entry), (_, first) = entries[name], entries[other]
        if any(e.get("type") != CONDITIONERS[n][0] for n, e in ((name, entry), (other, first))):
            continue
        defaults = defaults_of(CONDITIONERS[name][1])
        values, expected = ({**defaults, **conditioner_arguments(e, cond_dim)} for e in (entry, first))
        for key in keys:
            if values[key] != expected[key]:
                yield (
                    f"{path}.config.{key} of '{name}' is {shown(values[key])}, only "
                    f"{shown(expected[key])}, as of '{other}', fits"
                )
