"""What an adapter is and how much it changes, as plain values."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stable_audio.adapters.base import base_hash
from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.layers import own_weight
from stable_audio.adapters.stack import BACKBONE, AdapterStack
from stable_audio.adapters.terms import norm, relative

FOUND, OTHER, UNKNOWN = "the same", "another", "unknown"
"""Whether a model is the one that an adapter was trained on."""


def described(adapter: Adapter, model: nn.Module | None = None) -> dict[str, Any]:
    """Type, rank, layers, norms and origin of an adapter as JSON values.

    Args:
        model: a diffusion model; then also whether the adapter fits it, and by how much it changes each
            layer.
    """
    layers: dict[str, dict[str, Any]] = {
        name: {
            "parameters": sum(value.numel() for value in tensors.values()),
            # U and V have orthonormal columns, so that the norm of U M V^T is that of M.
            "update_norm": adapter.settings.scaling
            * norm(tensors["M_xs"] if "M_xs" in tensors else tensors["lora_B"] @ tensors["lora_A"]),
        }
        for name, tensors in adapter.layers.items()
    }
    values = {
        **adapter.settings.values(),
        "source": adapter.source,
        "bytes": Path(adapter.source).stat().st_size if Path(adapter.source).is_file() else None,
        "parameters": adapter.parameters,
        "backbone_layers": sum(name.startswith(BACKBONE) for name in layers),
        "conditioner_layers": sum(not name.startswith(BACKBONE) for name in layers),
        "passport": None if adapter.passport is None else asdict(adapter.passport),
        "layers": layers,
    }
    return values if model is None else values | {"model": _on_model(adapter, model, layers)}


def _on_model(adapter: Adapter, model: Any, layers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How an adapter suits a model; adds the relative change of each layer to `layers`."""
    stack = AdapterStack(model.backbone, model.conditioner)
    base = adapter.passport.base if adapter.passport is not None else None
    trained_on = UNKNOWN if base is None else FOUND if base.hash == base_hash(model) else OTHER
    try:
        index = stack.add(adapter)
    except AdapterError as error:
        return {"fits": False, "reason": str(error), "trained_on": trained_on}
    with torch.no_grad():
        for name, weight in stack.weights().items():
            own = own_weight(stack.layers[name]).float()
            layers[name]["relative_change"] = relative(norm(weight.flatten(1).float() - own), norm(own))
    stack.remove(index)
    return {"fits": True, "reason": None, "trained_on": trained_on}
