"""Folders of adapters in the layout of Hugging Face PEFT: `adapter_config.json`, `adapter_model.safetensors`.

PEFT's LoRA is our `lora`, its DoRA our `dora-rows`; it has none of the other types. Its names are relative to
the module that it wraps: our backbone, or the whole model, whose parts are `backbone` and `conditioner`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.files import Adapter
from stable_audio.adapters.soundness import check_shapes, matrix_of, values_of
from stable_audio.adapters.stack import BACKBONE, AdapterStack
from stable_audio.adapters.terms import LayerTerm, adapter_of, terms_of
from stable_audio.adapters.updates import ADAPTER_TYPES
from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import read_json_object
from stable_audio.stored.safetensors_files import read_safetensors, write_safetensors
from stable_audio.wording import names

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TYPES = {False: "lora", True: "dora-rows"}
"""`use_dora` -> our type."""

Root = Literal["backbone", "model"]
"""The module that PEFT wraps."""

_PARTS = {"backbone.": BACKBONE, "conditioner.": ""}
_NAMES = r"lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?"
_KEY = re.compile(rf"(?P<layer>.+)\.(?P<name>{_NAMES})")
_PLAIN = {
    # entries that change what the tensors mean -> the values at which they do not
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "velora_config": (None,),
    "kasa_config": (None,),
    "arrow_config": (None,),
}


def write_peft(folder: str | Path, adapter: Adapter, stack: AdapterStack, *, root: Root = "backbone") -> Path:
    """Write an adapter so that `peft.PeftModel.from_pretrained(module, folder)` reads it.

    Args:
        stack: of the model that the adapter belongs to, which tells the kernels of convolutions.
        root: the module that PEFT is to wrap.

    Raises:
        AdapterError: a type, or a layer, that the layout has not.
    """
    tensors = peft_tensors(adapter, stack, root=root)
    targets = sorted({_KEY.fullmatch(key)["layer"].removeprefix(PREFIX) for key in tensors})  # type: ignore[index]
    rank = max(value.shape[0] for key, value in tensors.items() if key.endswith("lora_A.weight"))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": _base_name(adapter),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": adapter.settings.dropout,
        "use_dora": adapter.settings.adapter_type == TYPES[True],
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": targets,
        "modules_to_save": None,
        "inference_mode": True,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    folder = Path(folder)
    write_safetensors(folder / WEIGHTS, {k: v.contiguous() for k, v in tensors.items()}, {"format": "pt"})
    # The config last: without it the folder is none of PEFT.
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def peft_tensors(adapter: Adapter, stack: AdapterStack, *, root: Root) -> dict[str, Tensor]:
    """The tensors of an adapter as PEFT has them, with lora_alpha equal to the rank.

    Raises:
        AdapterError: see `write_peft`.
    """
    stack.check(adapter)
    if adapter.settings.adapter_type not in TYPES.values():
        raise AdapterError(
            f"{adapter.source}: PEFT has no adapters of type '{adapter.settings.adapter_type}', only "
            f"{names(TYPES.values())}; convert it with --type first, or merge it into its model"
        )
    others = [name for name in adapter.layers if not name.startswith(BACKBONE)]
    if root == "backbone" and others:
        raise AdapterError(
            f"{adapter.source}: changes the conditioner, too ({names(others, 2)}), which is not in the "
            "backbone; write it relative to the whole model with --root model"
        )
    terms = terms_of(adapter)
    rank = max(term.rank for term in terms.values())
    tensors: dict[str, Tensor] = {}
    for name, term in terms.items():
        layer, padded = stack.layers[name], term.padded(rank)
        tensors |= {f"{PREFIX}{_outside(name, root)}.{k}": v for k, v in _layer(name, layer, padded).items()}
    return tensors


def _layer(name: str, layer: Any, term: LayerTerm) -> dict[str, Tensor]:
    """The tensors of one layer by PEFT's names for them."""
    axes = layer.weight.ndim - 2
    if axes and layer.groups > 1:
        raise AdapterError(
            f"{name} is a convolution with {layer.groups} groups, for which PEFT has another low-rank term; "
            "leave such layers out, or merge the adapter"
        )
    ones = (1,) * axes
    tensors = {
        "lora_A.weight": term.down.reshape(term.rank, *layer.weight.shape[1:]),
        "lora_B.weight": term.up.reshape(*term.up.shape, *ones),
    }
    if "magnitude" in term.norms:
        magnitude = term.norms["magnitude"]
        tensors["lora_magnitude_vector"] = magnitude.reshape(1, -1, *ones) if axes else magnitude
    return tensors


def _outside(name: str, root: Root) -> str:
    """The name of a layer in the module that PEFT wraps."""
    if root == "backbone":
        return name.removeprefix(BACKBONE)
    backbone = name.startswith(BACKBONE)
    return f"backbone.{name.removeprefix(BACKBONE)}" if backbone else f"conditioner.{name}"


def _base_name(adapter: Adapter) -> str | None:
    base = adapter.passport.base if adapter.passport is not None else None
    return None if base is None else base.name


def read_peft(folder: str | Path) -> Adapter:
    """Read a folder that PEFT has written for our backbone or for our whole model.

    Raises:
        AdapterError: another method than LoRA or DoRA, an option that our types have not, or a damaged file.
    """
    folder = Path(folder)
    config = _config(folder / CONFIG)
    try:
        tensors, _ = read_safetensors(folder / WEIGHTS)
    except ValueError as error:
        raise AdapterError(str(error)) from error
    return adapter_of_peft(tensors, config, source=str(folder))


def adapter_of_peft(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, source: str) -> Adapter:
    """The adapter with tensors under the names of PEFT.

    Raises:
        AdapterError: see `read_peft`.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(
                f"{source}: '{key}' is no tensor of PEFT's LoRA or DoRA; only these can be read"
            )
        layers.setdefault(match["layer"].removeprefix(PREFIX), {})[match["name"]] = value
    whole = any(layer.startswith(tuple(_PARTS)) for layer in layers)
    dora = any(name.startswith("lora_magnitude") for t in layers.values() for name in t)
    terms = {
        _inside(layer, whole, source): _term(layer, named, config, dora, source)
        for layer, named in layers.items()
    }
    if not terms:
        raise AdapterError(f"{source}: has no tensors")
    return adapter_of(terms, TYPES[dora], source=source, include=sorted(terms))


def _inside(layer: str, whole: bool, source: str) -> str:
    """Our name of a layer."""
    if not whole:
        return BACKBONE + layer
    for part, prefix in _PARTS.items():
        if layer.startswith(part):
            return prefix + layer.removeprefix(part)
    raise AdapterError(f"{source}: {layer} is neither in the backbone nor in the conditioner of a model")


def _term(
    layer: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any], dora: bool, source: str
) -> LayerTerm:
    a, b = tensors.get("lora_A.weight"), tensors.get("lora_B.weight")
    vectors = [value for name, value in tensors.items() if name.startswith("lora_magnitude")]
    if a is None or b is None or len(vectors) != dora:
        raise AdapterError(f"{source}: {layer} lacks tensors, it has {names(sorted(tensors))}; copy it again")
    down, up = matrix_of(f"{layer}.lora_A", a, source), matrix_of(f"{layer}.lora_B", b, source)
    norms = {}
    if vectors:
        norms["magnitude"] = values_of(f"{layer}.lora_magnitude_vector", vectors[0], source).flatten()
    rescaling = ADAPTER_TYPES[TYPES[dora]].rescaling
    check_shapes(layer, {"lora_A": down, "lora_B": up, **norms}, rescaling, source)
    scaling = _scaling(layer, len(down), config)
    return LayerTerm(down, scaling * up, norms)


def _scaling(layer: str, rank: int, config: Mapping[str, Any]) -> float:
    patterns = dict(config.get("alpha_pattern") or {})
    alpha = next((v for k, v in patterns.items() if _matches(k, layer)), config.get("lora_alpha", rank))
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank)


def _matches(pattern: str, layer: str) -> bool:
    """Whether a pattern of PEFT is for a layer: a regular expression for the name or its end."""
    return re.match(rf"(.*\.)?({pattern})$", layer) is not None


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = read_json_object(path)
    except (ValueError, OSError) as error:
        raise AdapterError(f"{error}; give a folder that PEFT has written") from error
    for reason in _unreadable(config):
        raise AdapterError(f"{path}: {reason}; merge it with PEFT instead")
    for reason in _mistakes(config):
        raise AdapterError(f"{path}: {reason}; copy it again")
    return config


def _mistakes(config: Mapping[str, Any]) -> Iterator[str]:
    """Entries of a wrong type, of those that say how much a term counts."""
    if not _is_number(config.get("lora_alpha", 1)):
        yield f"lora_alpha is {config['lora_alpha']!r}, but a finite number is needed"
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        yield f"alpha_pattern is {patterns!r}, but an object is needed"
        return
    for pattern, alpha in patterns.items():
        if not _is_number(alpha):
            yield f"alpha_pattern.{pattern} is {alpha!r}, but a finite number is needed"
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"alpha_pattern has '{pattern}', which is no regular expression ({error})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unreadable(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is '{config.get('peft_type')}', and only LORA can be read"
    for key, allowed in _PLAIN.items():
        if key in config and config[key] not in allowed:
            yield f"{key} is {config[key]!r}, which adapters here have not"


def is_peft(path: Path) -> bool:
    """Whether a path is a folder that PEFT has written."""
    return (path / CONFIG).is_file()
