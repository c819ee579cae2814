"""The weights among the entries of a torch file: programs name them differently, or store parts apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

STATES = ("state_dict", "model_state_dict", "model", "weights", "generator", "autoencoder")
"""Names of the entry with all weights, likeliest first."""

PARTS = frozenset({"encoder", "decoder", "bottleneck", "quantizer", "model", "conditioner", "pretransform"})
"""Names of entries that hold the weights of one part each, which our names begin with."""


def weights_among(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors, by full name, of the entry that holds them, of all parts together, or of the file."""
    if tensors := _tensors(content.get("state_dict", content)):
        return tensors
    groups = {name: found for name, entry in content.items() if (found := _tensors(entry))}
    parts = {name: group for name, group in groups.items() if name in PARTS}
    if len(parts) > 1:
        return {f"{name}.{key}": value for name, group in parts.items() for key, value in group.items()}
    return next((groups[name] for name in STATES if name in groups), {})


def _tensors(entry: Any) -> dict[str, Tensor]:
    if not isinstance(entry, Mapping):
        return {}
    return {key: value for key, value in entry.items() if isinstance(value, Tensor)}
