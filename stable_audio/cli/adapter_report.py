"""What `stable-audio adapter` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stable_audio.adapters.extraction import Extraction

MOST = 10
"""Weights that are listed where an adapter cannot hold them."""


def report_lines(values: Mapping[str, Any], layers: bool) -> Iterator[str]:
    """The lines of `info`.

    Args:
        values: see `stable_audio.adapters.report.described`.
        layers: list the layers, too.
    """
    size = "" if values["bytes"] is None else f", {values['bytes'] / 1e6:.2f} MB"
    yield f"{values['source']}{size}"
    yield (
        f"type {values['adapter_type']}, rank {values['rank']}, alpha {values['alpha']:g}, dropout "
        f"{values['dropout']:g}"
    )
    yield (
        f"{values['parameters']} parameters in {values['backbone_layers']} layers of the backbone and "
        f"{values['conditioner_layers']} of the conditioner"
    )
    for key in ("include", "exclude"):
        if values[key]:
            yield f"{key}: {', '.join(values[key])}"
    yield from _origin(values["passport"])
    if model := values.get("model"):
        yield "fits the model" if model["fits"] else f"does not fit the model: {model['reason']}"
        yield f"trained on: {model['trained_on']} model"
    if layers:
        changes = any("relative_change" in layer for layer in values["layers"].values())
        yield f"{'norm of update':>14}  {'relative change  ' if changes else ''}layer"
        for name, layer in values["layers"].items():
            change = f"{layer.get('relative_change', float('nan')):15.4f}  " if changes else ""
            yield f"{layer['update_norm']:14.4f}  {change}{name}"


def _origin(passport: Mapping[str, Any] | None) -> Iterator[str]:
    if passport is None:
        yield "no passport: the file does not say what it was trained on"
        return
    base, data = passport.get("base"), passport.get("data")
    if base:
        yield f"base: {base['name']}, hash {base['hash'][:16]}, then at {base['path']}"
    if data:
        yield f"data: {data['clips']} clips, hash {data['hash'][:16]}"
    for key in ("config_hash", "step", "seed", "software"):
        if passport.get(key) is not None:
            yield f"{key.replace('_', ' ')}: {passport[key]}"


def extraction_lines(output: str, result: Extraction, layers: bool) -> Iterator[str]:
    """The lines of `extract`.

    Args:
        output: the file that was written.
        layers: list every layer, not the worst one alone.
    """
    settings = result.adapter.settings
    yield f"{output}: lora of rank {settings.rank}, {result.adapter.parameters} parameters"
    yield f"{len(result.errors)} layers differ; the adapter leaves out {result.error:.2%} of all changes"
    worst = max(result.errors, key=lambda name: result.errors[name])
    listed = result.errors if layers else {worst: result.errors[worst]}
    for name, error in listed.items():
        yield f"  {error:8.2%} of the change of {name}"
    if result.others:
        yield f"{len(result.others)} other weights differ, which the adapter does not hold:"
        others = sorted(result.others.items(), key=lambda item: -item[1])
        for name, value in others[: None if layers else MOST]:
            yield f"  {value:8.4f} {name}"
