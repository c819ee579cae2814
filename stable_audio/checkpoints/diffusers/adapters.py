"""Adapters for the transformers of diffusers: `pytorch_lora_weights.safetensors`, names below `transformer.`.

A fused projection of ours is two or three layers there. The names and rows of a layer follow from those of
its weight, by the same functions that write the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.adapters.errors import AdapterError, DamagedAdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.layers import own_weight
from stable_audio.adapters.rescaling import Rescaling, RowRescaling
from stable_audio.adapters.soundness import AGAIN, check_shapes, matrix_of, values_of
from stable_audio.adapters.stack import BACKBONE, AdapterStack
from stable_audio.adapters.terms import LayerTerm, adapter_of, terms_of
from stable_audio.audio.json_files import parse_json_object
from stable_audio.checkpoints.diffusers import limits, weights
from stable_audio.checkpoints.diffusers.stable_audio_3 import limits as limits_3
from stable_audio.checkpoints.diffusers.stable_audio_3 import weights as weights_3
from stable_audio.stored.safetensors_files import read_safetensors, write_safetensors
from stable_audio.wording import names

FILE = "pytorch_lora_weights.safetensors"
TRANSFORMER = "transformer."
METADATA = "lora_adapter_metadata"
"""Entry of the file's header in which diffusers looks for rank, alpha and layers."""

_TYPES = ("lora", "dora-rows")
_NAMES_HERE = {"lora_A.weight": "lora_A", "lora_B.weight": "lora_B", "lora_magnitude_vector": "magnitude"}
_KEY = re.compile(r"(?P<layer>.+)\.(?P<name>lora_A\.weight|lora_B\.weight|lora_magnitude_vector|alpha)")

Place = tuple[str, Tensor]
"""One of our layers, and the rows of its weight in their order there."""


def write_diffusers_adapter(
    path: str | Path, adapter: Adapter, stack: AdapterStack, config: Mapping[str, Any]
) -> Path:
    """Write an adapter of a backbone for the transformer that `export_diffusers_backbone` writes.

    Args:
        path: a folder, which gets FILE, or a name that ends in .safetensors.
        stack: of the model that the adapter belongs to.
        config: of that model.

    Raises:
        AdapterError: a type or a layer that the layout has not, or a backbone that it cannot hold.
    """
    stack.check(adapter)
    _check(adapter)
    places = layer_places(stack, config)
    terms = terms_of(adapter)
    tensors: dict[str, Tensor] = {}
    for target, (name, rows) in places.items():
        if (term := terms.get(name)) is None:
            continue
        start = f"{TRANSFORMER}{target}."
        shape = stack.layers[name].weight.shape[2:]  # type: ignore[union-attr, index]
        tensors[start + "lora_A.weight"] = term.down.reshape(term.rank, -1, *shape).contiguous()
        tensors[start + "lora_B.weight"] = term.up[rows].reshape(len(rows), -1, *(1 for _ in shape)).clone()
        if "magnitude" in term.norms:
            magnitude = term.norms["magnitude"][rows]
            of_conv = (1, -1, *(1 for _ in shape))
            tensors[start + "lora_magnitude_vector"] = magnitude.reshape(of_conv) if shape else magnitude
    if absent := sorted(terms.keys() - {name for name, _ in places.values()}):
        raise AdapterError(
            f"{adapter.source}: diffusers' transformer has no counterpart of {names(absent, 3)}"
        )
    targets = sorted({key.removeprefix(TRANSFORMER).rsplit(".lora_", 1)[0] for key in tensors})
    rank = adapter.settings.rank
    values = {
        "r": rank,
        "lora_alpha": rank,
        "target_modules": targets,
        "use_dora": adapter.settings.adapter_type == "dora-rows",
    }
    metadata = {METADATA: json.dumps({TRANSFORMER + key: value for key, value in values.items()})}
    file = Path(path) if str(path).endswith(".safetensors") else Path(path) / FILE
    # Shared by the parts of a fused projection, but the format stores every tensor by itself.
    tensors = {key: value.clone() for key, value in tensors.items()}
    write_safetensors(file, tensors, {"format": "pt", **metadata})
    return file


def _check(adapter: Adapter) -> None:
    kind = adapter.settings.adapter_type
    if kind not in _TYPES:
        raise AdapterError(
            f"{adapter.source}: diffusers has no adapters of type '{kind}', only {names(_TYPES)}; convert it "
            "with --type first, or merge it into its model"
        )
    if others := [name for name in adapter.layers if not name.startswith(BACKBONE)]:
        raise AdapterError(
            f"{adapter.source}: changes the conditioner ({names(others, 2)}), for which the layout has no "
            "place; merge it into its model and export that"
        )


def layer_places(stack: AdapterStack, config: Mapping[str, Any]) -> dict[str, Place]:
    """Name of each layer of diffusers' transformer -> where it is in our backbone.

    Raises:
        AdapterError: a backbone that neither of its transformers can hold, with the reasons.
    """
    first, third = limits.unsupported_backbone(config), limits_3.unsupported_backbone(config)
    if first and third:
        reasons = min(first, third, key=len)
        raise AdapterError(f"diffusers' transformers cannot hold this backbone: {'; '.join(reasons[:3])}")
    # Of the shapes of the weights, by which the functions tell kinds of projections apart.
    rows = {
        f"{name.removeprefix(BACKBONE)}.weight": _rows(own_weight(layer))
        for name, layer in stack.layers.items()
        if name.startswith(BACKBONE)
    }
    state = _third if first else weights.dit_state
    mapped = {key: state({key: value}) for key, value in rows.items()}
    return {
        target.removesuffix(".weight"): (BACKBONE + key.removesuffix(".weight"), index[:, 0].clone())
        for key, parts in mapped.items()
        for target, index in parts.items()
        if target.endswith(".weight")
    }


def _rows(weight: Tensor) -> Tensor:
    """The number of its row in every place of a matrix (out, in)."""
    return torch.arange(len(weight))[:, None].expand(weight.shape)


def _third(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return weights_3.dit_state(state, io_channels=0)


def read_diffusers_adapter(path: str | Path, stack: AdapterStack, config: Mapping[str, Any]) -> Adapter:
    """Read an adapter of diffusers' transformer as one of the backbone that it stands for.

    The parts of a fused projection that have low-rank terms of their own make one of the sum of their ranks.

    Args:
        path: the file, or the folder that has it.
        stack: of the model that the adapter is for.
        config: of that model.

    Raises:
        AdapterError: a damaged file, layers that the model has not, or a DoRA of a part of a projection.
    """
    file = Path(path) if Path(path).is_file() else Path(path) / FILE
    try:
        tensors, header = read_safetensors(file)
        metadata = parse_json_object(header.get(METADATA, "{}"), source=f"{file}: its {METADATA}")
    except ValueError as error:
        raise AdapterError(str(error)) from error
    places = layer_places(stack, config)
    parts: dict[str, list[tuple[Tensor, dict[str, Tensor]]]] = {}
    for target, named in _layers(tensors, file).items():
        if target not in places:
            raise AdapterError(
                f"{file}: the model has no counterpart of {target}; use the model that it is for"
            )
        name, rows = places[target]
        parts.setdefault(name, []).append((rows, named))
    alpha = metadata.get(f"{TRANSFORMER}lora_alpha")
    shapes = {name: tuple(own_weight(stack.layers[name]).shape) for name in parts}
    terms = {name: _joined(name, p, shapes[name], alpha, file) for name, p in parts.items()}
    dora = any(term.norms for term in terms.values())
    return adapter_of(terms, _TYPES[dora], source=str(file), include=sorted(terms))


def _layers(tensors: Mapping[str, Tensor], file: Path) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or not key.startswith(TRANSFORMER):
            raise AdapterError(
                f"{file}: '{key}' is no tensor of a transformer's LoRA or DoRA; only these can be read"
            )
        layers.setdefault(match["layer"].removeprefix(TRANSFORMER), {})[match["name"]] = value
    for layer, named in layers.items():
        if not {"lora_A.weight", "lora_B.weight"} <= named.keys():
            raise AdapterError(f"{file}: {layer} lacks tensors, it has {names(sorted(named))}; copy it again")
    return {layer: _sound(layer, named, str(file)) for layer, named in layers.items()}


def _sound(layer: str, named: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a layer in float32, its matrices without kernels.

    Raises:
        DamagedAdapterError: they cannot be those of an adapter.
    """
    tensors = {
        name: (matrix_of if name.endswith(".weight") else values_of)(f"{layer}.{name}", value, source)
        for name, value in named.items()
    }
    if "alpha" in tensors and tensors["alpha"].numel() != 1:
        raise DamagedAdapterError(
            f"{source}: {layer}.alpha has the shape {tuple(tensors['alpha'].shape)}, but it is one number; "
            f"{AGAIN}"
        )
    ours = {_NAMES_HERE.get(name, name): value for name, value in tensors.items()}
    check_shapes(layer, ours, RowRescaling if "magnitude" in ours else Rescaling, source)
    return tensors


def _check_sizes(name: str, parts: list[tuple[int, dict[str, Tensor]]], inputs: int, file: Path) -> None:
    """Raise AdapterError unless low-rank terms are of the rows and columns that they stand for."""
    for outputs, named in parts:
        found = (len(named["lora_B.weight"]), named["lora_A.weight"].shape[1])
        if found != (outputs, inputs):
            raise AdapterError(
                f"{file}: a part of {name} has a lora_B of {found[0]} rows and a lora_A of {found[1]} "
                f"columns, but the model has {outputs} and {inputs} there; use the model that it is for"
            )


def _joined(
    name: str,
    parts: list[tuple[Tensor, dict[str, Tensor]]],
    shape: tuple[int, ...],
    alpha: float | None,
    file: Path,
) -> LayerTerm:
    """One term of the terms of a projection's parts, whose weight (out, in) has a shape; one A in common
    stays one."""
    outputs, inputs = shape
    downs = [named["lora_A.weight"] for _, named in parts]
    _check_sizes(name, [(len(rows), named) for rows, named in parts], inputs, file)
    common = all(torch.equal(down, downs[0]) for down in downs)
    rank = len(downs[0]) if common else sum(map(len, downs))
    up, start, norms = torch.zeros(outputs, rank), 0, {}
    magnitude = torch.zeros(outputs)
    for (rows, named), down in zip(parts, downs):
        told = named["alpha"].item() if "alpha" in named else alpha
        scaling = 1.0 if told is None else float(told) / len(down)
        up[rows, start : start + len(down)] = scaling * named["lora_B.weight"]
        start += 0 if common else len(down)
        if "lora_magnitude_vector" in named:
            magnitude[rows] = named["lora_magnitude_vector"].flatten()
    if dora := sum("lora_magnitude_vector" in named for _, named in parts):
        if dora < len(parts) or sum(len(rows) for rows, _ in parts) < outputs:
            raise AdapterError(
                f"{file}: only a part of {name} has norms, which cannot be joined with the rest; merge it "
                "with diffusers instead"
            )
        norms["magnitude"] = magnitude
    return LayerTerm(downs[0] if common else torch.cat(downs), up, norms)
