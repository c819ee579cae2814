"""Reasons why diffusers' layout of Stable Audio 3 cannot hold a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints.diffusers.arguments import Table, defaults_of, misfits, shown
from stable_audio.checkpoints.diffusers.limits import section_defaults
from stable_audio.checkpoints.diffusers.stable_audio_3 import tables
from stable_audio.checkpoints.diffusers.stable_audio_3.tables import TEXT, TOTAL
from stable_audio.conditioning.scalars import NumberConditioner
from stable_audio.conditioning.t5gemma import T5GemmaConditioner
from stable_audio.config.sections.diffusion import ConditioningSection, DiffusionSection
from stable_audio.pretransforms.bottlenecks.continuous import SoftNormBottleneck
from stable_audio.pretransforms.patched import PatchedPretransform
from stable_audio.pretransforms.same import SAMEDecoder, SAMEEncoder

CONDITIONERS: dict[str, tuple[str, Any, Table]] = {
    TEXT: ("t5gemma", T5GemmaConditioner, tables.T5GEMMA),
    TOTAL: ("number", NumberConditioner, tables.NUMBER),
}
"""Id -> its type, the class and the table of its arguments."""

PARTS: dict[str, tuple[str, Any, Table, Table]] = {
    "encoder": ("same", SAMEEncoder, tables.ENCODER, tables.PART),
    "decoder": ("same", SAMEDecoder, tables.DECODER, {**tables.PART, "soft_clip": tables.only(False)}),
    "bottleneck": ("softnorm", SoftNormBottleneck, tables.SOFTNORM, tables.PART),
    "pretransform": ("patched", PatchedPretransform, tables.PATCHED, tables.PATCHED_SECTION),
}
"""Part of an autoencoder -> its type, the class, the table of its arguments and that of its section."""

SECTION = {"soft_clip": False, "scale": 1.0}
"""Defaults of the sections of these parts, where they matter."""

MODELS = ("diffusion_cond_inpaint", "diffusion_cond")


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """Reasons why the layout cannot hold a whole model, parts of a sentence; empty if it can."""
    if (model_type := config.get("model_type")) not in MODELS:
        return [f"model_type is {shown(model_type)}, only {shown(MODELS[0])} fits"]
    model = config["model"]
    wiring = {k: v for k, v in model["diffusion"].items() if k in tables.WIRING}
    defaults = section_defaults(DiffusionSection)
    return [
        *unsupported_backbone(config),
        *misfits(tables.WIRING, wiring, "model.diffusion", defaults=defaults),
        *_conditioning(model.get("conditioning") or {}),
        *_pretransform(model.get("pretransform") or {}),
    ]


def unsupported_backbone(config: Mapping[str, Any]) -> list[str]:
    """Reasons why the layout cannot hold the backbone."""
    path = "model.diffusion"
    section = config.get("model", {}).get("diffusion") or {}
    if section.get("type") != "dit":
        return [f"{path}.type is {shown(section.get('type'))}, only 'dit' fits"]
    keys = {k: v for k, v in section.items() if k in tables.OBJECTIVE}
    return [
        *misfits(tables.DIT, section.get("config") or {}, f"{path}.config", defaults=defaults_of(DiT)),
        *misfits(tables.OBJECTIVE, keys, path, defaults=section_defaults(DiffusionSection)),
    ]


def unsupported_autoencoder(spec: Mapping[str, Any], path: str = "model") -> list[str]:
    """Reasons why the layout cannot hold an autoencoder, whose section is at the JSON path `path`."""
    reasons = list(misfits(tables.AUTOENCODER, spec, path, defaults={}))
    for name, (kind, target, table, section_table) in PARTS.items():
        section, at = spec.get(name) or {}, f"{path}.{name}"
        if section.get("type") != kind:
            reasons.append(f"{at}.type is {shown(section.get('type'))}, only '{kind}' fits")
            continue
        reasons += misfits(section_table, section, at, defaults=SECTION)
        reasons += misfits(table, section.get("config") or {}, f"{at}.config", defaults=defaults_of(target))
    if all((spec.get(name) or {}).get("type") == "same" for name in ("encoder", "decoder")):
        reasons += _unequal_stages(spec, path)
    return reasons


def _unequal_stages(spec: Mapping[str, Any], path: str) -> Iterator[str]:
    encoder, decoder = (
        {**defaults_of(target), **(spec[name].get("config") or {})}
        for name, target in (("encoder", SAMEEncoder), ("decoder", SAMEDecoder))
    )
    for key, treatment in tables.STAGES.items():
        if isinstance(treatment, tables.Held) and decoder[key] != encoder[key]:
            yield (
                f"{path}.decoder.config.{key} is {shown(decoder[key])}, only {shown(encoder[key])}, "
                "as in the encoder, fits"
            )
    widths = [encoder["in_channels"], *(m * encoder["channels"] for m in encoder["c_mults"])]
    if any(a == b for a, b in itertools.pairwise(widths)):
        yield (
            f"{path}.encoder.config.c_mults gives neighbouring stages one width ({shown(widths)}), only "
            "different ones fit: the layout has no convolution between equal ones"
        )


def _pretransform(section: Mapping[str, Any]) -> list[str]:
    path = "model.pretransform"
    if section.get("type") != "autoencoder":
        return [f"{path}.type is {shown(section.get('type'))}, only 'autoencoder' fits"]
    reasons = list(misfits(tables.first.PRETRANSFORM, section, path, defaults={"scale": 1.0}))
    measured = section["config"].get("latent_scale")
    if section.get("scale") is None and measured not in (None, 1.0):
        reasons.append(
            f"{path}.config.latent_scale is {shown(measured)}, only 1.0 fits: latents are divided by it"
        )
    return reasons + unsupported_autoencoder(section["config"], f"{path}.config")


def _conditioning(section: Mapping[str, Any]) -> list[str]:
    path = "model.conditioning"
    defaults = section_defaults(ConditioningSection)
    reasons = list(misfits(tables.CONDITIONING, section, path, defaults=defaults))
    entries = {e["id"]: (f"{path}.configs[{i}]", e) for i, e in enumerate(section.get("configs") or [])}
    for name, (at, entry) in entries.items():
        reasons += _conditioner(name, at, entry, section["cond_dim"])
    if absent := [name for name in CONDITIONERS if name not in entries]:
        reasons.append(f"{path}.configs lacks {', '.join(absent)}")
    return reasons


def _conditioner(name: str, path: str, entry: Mapping[str, Any], cond_dim: int) -> Iterator[str]:
    if name not in CONDITIONERS:
        yield f"{path}.id is '{name}', only {', '.join(CONDITIONERS)} fit"
        return
    kind, target, table = CONDITIONERS[name]
    if entry.get("type") != kind:
        yield f"{path}.type of '{name}' is {shown(entry.get('type'))}, only '{kind}' fits"
        return
    given = {k: v for k, v in (entry.get("config") or {}).items() if not (k == "output_dim" and v is None)}
    arguments = {"output_dim": cond_dim, **given}
    yield from misfits(table, arguments, f"{path}.config", defaults=defaults_of(target))
