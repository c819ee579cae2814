"""Reasons why a layout of diffusers cannot hold a section of a model: what its two layouts have in common.

Tables say what each layout has; reasons are parts of a sentence, with the JSON path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stable_audio.backbones.dit import DiT
from stable_audio.checkpoints.diffusers.arguments import Table, defaults_of, misfits, shown
from stable_audio.config.sections.diffusion import DiffusionSection

JsonSection = Mapping[str, Any]

Conditioners = Mapping[str, tuple[str, Any, Table]]
"""Id -> its type, the class and the table of its arguments."""

Parts = Mapping[str, tuple[str, Any, Table, Table]]
"""Part of an autoencoder -> its type, the class, the table of its arguments and that of its section."""


def section_defaults(section: Any) -> dict[str, Any]:
    """Default of each key of a section's model that has one."""
    fields = section.model_fields.items()
    return {n: f.get_default(call_default_factory=True) for n, f in fields if not f.is_required()}


def diffusion_misfits(keys: JsonSection, table: Table) -> Iterator[str]:
    """Of those keys of `model.diffusion` that are in the table."""
    listed = {k: v for k, v in keys.items() if k in table}
    return misfits(table, listed, "model.diffusion", defaults=section_defaults(DiffusionSection))


def backbone_misfits(config: JsonSection, *, arguments: Table, objective: Table) -> list[str]:
    """Of the backbone of a whole config: its type, its arguments, and the keys of its objective."""
    path = "model.diffusion"
    section = config.get("model", {}).get("diffusion") or {}
    if section.get("type") != "dit":
        return [f"{path}.type is {shown(section.get('type'))}, only 'dit' fits"]
    return [
        *misfits(arguments, section.get("config") or {}, f"{path}.config", defaults=defaults_of(DiT)),
        *diffusion_misfits(section, objective),
    ]


def part_misfits(spec: JsonSection, path: str, *, parts: Parts, defaults: JsonSection) -> Iterator[str]:
    """Of the parts of an autoencoder at `path`; `defaults` are those of their sections."""
    for name, (kind, target, table, section_table) in parts.items():
        section, at = spec.get(name) or {}, f"{path}.{name}"
        if section.get("type") != kind:
            yield f"{at}.type is {shown(section.get('type'))}, only '{kind}' fits"
            continue
        yield from misfits(section_table, section, at, defaults=defaults)
        yield from misfits(table, section.get("config") or {}, f"{at}.config", defaults=defaults_of(target))


def coder_arguments(spec: JsonSection, parts: Parts) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """All arguments of encoder and decoder; None unless both have the type of the layout."""
    if any((spec.get(name) or {}).get("type") != parts[name][0] for name in ("encoder", "decoder")):
        return None
    encoder, decoder = (
        {**defaults_of(parts[name][1]), **(spec[name].get("config") or {})} for name in ("encoder", "decoder")
    )
    return encoder, decoder


def unequal_keys(encoder: JsonSection, decoder: JsonSection, keys: list[str], path: str) -> Iterator[str]:
    """Of arguments that the layout stores once for both coders of the autoencoder at `path`."""
    for key in keys:
        if decoder[key] != encoder[key]:
            yield (
                f"{path}.decoder.config.{key} is {shown(decoder[key])}, only {shown(encoder[key])}, "
                "as in the encoder, fits"
            )


def pretransform_misfits(
    section: JsonSection, table: Table, autoencoder: Callable[[JsonSection, str], list[str]]
) -> list[str]:
    """Of `model.pretransform`, whose autoencoder `autoencoder` judges by its section and its path."""
    path = "model.pretransform"
    if section.get("type") != "autoencoder":
        return [f"{path}.type is {shown(section.get('type'))}, only 'autoencoder' fits"]
    reasons = list(misfits(table, section, path, defaults={"scale": 1.0}))
    measured = section["config"].get("latent_scale")
    if section.get("scale") is None and measured not in (None, 1.0):
        reasons.append(
            f"{path}.config.latent_scale is {shown(measured)}, only 1.0 fits: latents are divided by it"
        )
    return reasons + autoencoder(section["config"], f"{path}.config")


def conditioner_misfits(
    name: str, path: str, entry: JsonSection, *, cond_dim: int, conditioners: Conditioners
) -> Iterator[str]:
    """Of the conditioner `name`, whose entry is at `path`."""
    if name not in conditioners:
        yield f"{path}.id is '{name}', only {', '.join(conditioners)} fit"
        return
    kind, target, table = conditioners[name]
    if entry.get("type") != kind:
        yield f"{path}.type of '{name}' is {shown(entry.get('type'))}, only '{kind}' fits"
        return
    arguments = conditioner_arguments(entry, cond_dim)
    yield from misfits(table, arguments, f"{path}.config", defaults=defaults_of(target))


def conditioner_arguments(entry: JsonSection, cond_dim: int) -> dict[str, Any]:
    """Its config, with the common width where it has none of its own."""
    config = {k: v for k, v in (entry.get("config") or {}).items() if not (k == "output_dim" and v is None)}
    return {"output_dim": cond_dim, **config}
