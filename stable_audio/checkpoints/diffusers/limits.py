"""Reasons why diffusers' Stable Audio layout cannot hold a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints.diffusers import tables
from stable_audio.checkpoints.diffusers.arguments import Table, defaults_of, misfits, shown
from stable_audio.checkpoints.diffusers.tables import START, TEXT, TOTAL
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.conditioning.scalars import NumberConditioner
from stable_audio.conditioning.t5 import T5Conditioner
from stable_audio.config.sections.diffusion import ConditioningSection, DiffusionSection
from stable_audio.pretransforms.bottlenecks.continuous import VAEBottleneck
from stable_audio.pretransforms.oobleck import OobleckDecoder, OobleckEncoder

CONDITIONERS: dict[str, tuple[str, Any, Table]] = {
    TEXT: ("t5", T5Conditioner, tables.T5),
    START: ("number", NumberConditioner, tables.NUMBER),
    TOTAL: ("number", NumberConditioner, tables.NUMBER),
}
"""Id -> its type, the class and the table of its arguments."""

PARTS: dict[str, tuple[str, Any, Table, Table]] = {
    "encoder": ("oobleck", OobleckEncoder, tables.OOBLECK_ENCODER, tables.PART),
    "decoder": ("oobleck", OobleckDecoder, tables.OOBLECK_DECODER, tables.DECODER_PART),
    "bottleneck": ("vae", VAEBottleneck, tables.VAE, tables.PART),
}
"""Part of an autoencoder -> its type, the class, the table of its arguments and that of its section."""


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
    wiring = {k: v for k, v in model["diffusion"].items() if k in tables.WIRING}
    return [
        *unsupported_backbone(config),
        *misfits(tables.WIRING, wiring, "model.diffusion", defaults=section_defaults(DiffusionSection)),
        *_conditioning(model.get("conditioning")),
        *_pretransform(model.get("pretransform")),
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
    if all((spec.get(name) or {}).get("type") == "oobleck" for name in ("encoder", "decoder")):
        reasons += _unequal_stages(spec, path)
    for name, (kind, target, table, section_table) in PARTS.items():
        section, at = spec.get(name) or {}, f"{path}.{name}"
        if section.get("type") != kind:
            reasons.append(f"{at}.type is {shown(section.get('type'))}, only '{kind}' fits")
            continue
        reasons += misfits(section_table, section, at, defaults={"soft_clip": False})
        reasons += misfits(table, section.get("config") or {}, f"{at}.config", defaults=defaults_of(target))
    return reasons


def _unequal_stages(spec: Mapping[str, Any], path: str) -> Iterator[str]:
    encoder, decoder = (
        {**defaults_of(target), **(spec[name].get("config") or {})}
        for name, target in (("encoder", OobleckEncoder), ("decoder", OobleckDecoder))
    )
    for key in ("c_mults", "strides"):
        value, expected = decoder[key], encoder[key]
        if value != expected:
            yield (
                f"{path}.decoder.config.{key} is {shown(value)}, only {shown(expected)}, "
                "as in the encoder, fits"
            )


def _pretransform(section: Mapping[str, Any] | None) -> list[str]:
    path = "model.pretransform"
    if section is None:
        return [f"{path} is absent, but a pipeline needs an autoencoder"]
    if section.get("type") != "autoencoder":
        return [f"{path}.type is {shown(section.get('type'))}, only 'autoencoder' fits"]
    spec = section["config"]
    reasons = list(misfits(tables.PRETRANSFORM, section, path, defaults={"scale": 1.0}))
    measured = spec.get("latent_scale")
    if section.get("scale") is None and measured not in (None, 1.0):
        reasons.append(
            f"{path}.config.latent_scale is {shown(measured)}, only 1.0 fits: latents are divided by it"
        )
    return reasons + unsupported_autoencoder(spec, f"{path}.config")


def _conditioning(section: Mapping[str, Any] | None) -> list[str]:
    path = "model.conditioning"
    if section is None:
        return [f"{path} is absent, but a pipeline needs the conditioners {', '.join(CONDITIONERS)}"]
    reasons = list(
        misfits(tables.CONDITIONING, section, path, defaults=section_defaults(ConditioningSection))
    )
    entries = {e["id"]: (f"{path}.configs[{i}]", e) for i, e in enumerate(section.get("configs") or [])}
    for name, (at, entry) in entries.items():
        reasons += _conditioner(name, at, entry, section["cond_dim"])
    absent = [name for name in CONDITIONERS if name not in entries]
    if absent:
        return [*reasons, f"{path}.configs lacks {', '.join(absent)}"]
    return reasons + list(_unequal(entries, section["cond_dim"]))


def _conditioner(name: str, path: str, entry: Mapping[str, Any], cond_dim: int) -> Iterator[str]:
    if name not in CONDITIONERS:
        yield f"{path}.id is '{name}', only {', '.join(CONDITIONERS)} fit"
        return
    kind, target, table = CONDITIONERS[name]
    if entry.get("type") != kind:
        yield f"{path}.type of '{name}' is {shown(entry.get('type'))}, only '{kind}' fits"
        return
    yield from misfits(table, _arguments(entry, cond_dim), f"{path}.config", defaults=defaults_of(target))


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
        values, expected = ({**defaults, **_arguments(e, cond_dim)} for e in (entry, first))
        for key in keys:
            if values[key] != expected[key]:
                yield (
                    f"{path}.config.{key} of '{name}' is {shown(values[key])}, only "
                    f"{shown(expected[key])}, as of '{other}', fits"
                )


def _arguments(entry: Mapping[str, Any], cond_dim: int) -> dict[str, Any]:
    config = {k: v for k, v in (entry.get("config") or {}).items() if not (k == "output_dim" and v is None)}
    return {"output_dim": cond_dim, **config}


def section_defaults(section: Any) -> dict[str, Any]:
    fields = section.model_fields.items()
    return {n: f.get_default(call_default_factory=True) for n, f in fields if not f.is_required()}
