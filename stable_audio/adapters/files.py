"""Files of adapters, in the layout of stable-audio-3.

A `.safetensors` file has the trained tensors in float16 under `LAYER.parametrizations.weight.0.NAME` and the
settings as JSON in its metadata, under `lora_config`; files of this program also say where the adapter comes
from, under `passport`. A `.ckpt` file is a pickle of `{"state_dict": tensors, "lora_config": settings}`, with
the same `passport`.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.adapters.errors import AdapterError
from stable_audio.adapters.layers import UPDATES
from stable_audio.adapters.passport import PASSPORT, Passport
from stable_audio.adapters.settings import SETTINGS, AdapterSettings
from stable_audio.adapters.soundness import AGAIN, check_layers, values_of
from stable_audio.adapters.updates import PARAMETERS
from stable_audio.audio.atomic import atomic_write
from stable_audio.characters import refuse_name
from stable_audio.stored.safetensors_files import read_safetensors, write_safetensors
from stable_audio.stored.shards_folder import is_shards

LAST = "last.safetensors"
"""The adapter in the folder of a run that has trained one."""
_KEY = re.compile(r"(?P<layer>.+)\.parametrizations\.weight\.\d+\.(?P<name>\w+)")
_IN_STATE = re.compile(rf"(?P<part>backbone|conditioner)\.(?P<layer>.+)\.{UPDATES}\.\d+\.(?P<name>\w+)")
BACKBONE = "model."
"""Prefix of the backbone's layers in files; the conditioner's have none."""

_UNUSED = ("U", "V", "lora_dropout_mask", "lora_strength")
"""Buffers that other programs may have left in a file; they follow from the model."""


@dataclass(frozen=True)
class Adapter:
    """An adapter by itself.

    Attributes:
        settings: its type, rank and selection of layers.
        layers: name of each layer -> its trained tensors by name.
        source: where it comes from, for messages.
        passport: what it was trained on; None: unknown.
    """

    settings: AdapterSettings
    layers: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    source: str = "the adapter"
    passport: Passport | None = None

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under their keys in files."""
        return {
            f"{layer}.parametrizations.weight.0.{name}": value
            for layer, tensors in self.layers.items()
            for name, value in tensors.items()
        }

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(value.numel() for value in self.tensors().values())


def check_suffix(path: str | Path) -> Path:
    """The path, if `write_adapter` can write a file of this name.

    Raises:
        AdapterError: another suffix.
        ValueError: a name that is not UTF-8.
    """
    path = Path(path)
    refuse_name(path)
    if path.suffix not in (".safetensors", ".ckpt"):
        raise AdapterError(
            f"{path}: an adapter is written as .safetensors or .ckpt; change the name's ending"
        )
    return path


def check_range(path: str | Path, adapter: Adapter) -> None:
    """Refuse values that the file could not hold, which would be infinite in it.

    Raises:
        AdapterError: a value is beyond float16, and the name is that of a .safetensors file.
    """
    most = torch.finfo(torch.float16).max
    for key, value in adapter.tensors().items():
        if Path(path).suffix == ".safetensors" and value.numel() and float(value.abs().max()) > most:
            raise AdapterError(
                f"{path}: {key} has the value {float(value.abs().max()):g}, but a .safetensors file of an "
                f"adapter is float16, up to {most:g}; write it as .ckpt"
            )


def write_adapter(path: str | Path, adapter: Adapter) -> None:
    """Write an adapter, in float16 as `.safetensors`, or as `.ckpt` with its tensors as they are.

    Raises:
        AdapterError: another suffix.
    """
    path = check_suffix(path)
    values = adapter.settings.values()
    passport = {} if adapter.passport is None else {PASSPORT: adapter.passport.as_json()}
    if path.suffix == ".ckpt":
        with atomic_write(path) as temporary:
            torch.save({"state_dict": adapter.tensors(), SETTINGS: values, **passport}, temporary)
        return
    tensors = {key: value.detach().cpu().half().contiguous() for key, value in adapter.tensors().items()}
    write_safetensors(path, tensors, {SETTINGS: json.dumps(values), **passport})


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter of this program or of stable-audio-3, as float32.

    Args:
        path: the file, or the folder of a run that trained an adapter.

    Raises:
        AdapterError: no adapter, damaged, or of an unknown type.
    """
    path = adapter_file(path)
    tensors, values, passport = _read_torch(path) if path.suffix == ".ckpt" else _read_safetensors(path)
    adapter = adapter_from(tensors, values, source=str(path))
    return replace(adapter, passport=_passport(passport, path))


def trained_layers(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of the adapter of a model that trains one, by layer, from the state of the model.

    Args:
        state: with the model's keys, such as `backbone.a.weight_updates.0.lora_A` for the layer `model.a`.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if match := _IN_STATE.fullmatch(key):
            prefix = BACKBONE if match["part"] == "backbone" else ""
            layers.setdefault(prefix + match["layer"], {})[match["name"]] = value
    return layers


def trained_adapter(state: Mapping[str, Tensor], settings: AdapterSettings, *, source: str) -> Adapter:
    """The adapter of a model that trains one, from the stored state of the model.

    Args:
        state: as for `trained_layers`.

    Raises:
        AdapterError: there are no tensors of one, or they are damaged or do not belong together.
    """
    layers = trained_layers(
        {key: values_of(key, value, source) for key, value in state.items() if _IN_STATE.fullmatch(key)}
    )
    if not layers:
        raise AdapterError(f"{source}: lacks the tensors of the adapter that its run trains; {AGAIN}")
    check_layers(layers, settings, source)
    return Adapter(settings, layers, source)


def adapter_file(path: str | Path) -> Path:
    """The file of an adapter: the path itself, or what a run has left in its folder.

    Raises:
        AdapterError: there is none.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if is_shards(path):
            raise AdapterError(
                f"{path}: is a checkpoint in parts, but the file of an adapter is needed; give the folder of "
                f"its run, where {LAST} is written when the run ends or is stopped"
            )
        if not (path / LAST).is_file():
            raise AdapterError(f"{path}: the folder has no {LAST}; name the file of the adapter")
        return path / LAST
    if not path.is_file():
        raise AdapterError(
            f"{path}: no such file; give the .safetensors or .ckpt file of an adapter, or the folder of a run"
        )
    return path


def adapter_from(tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, source: str) -> Adapter:
    """The adapter with these tensors, by their keys in files, and settings as JSON values.

    Raises:
        AdapterError: tensors that are damaged or do not belong together, or settings of an unknown kind.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    shape: tuple[int, ...] | None = None
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or match["name"] not in (*PARAMETERS, *_UNUSED):
            raise AdapterError(
                f"{source}: '{key}' is no tensor of an adapter, whose keys end with "
                f".parametrizations.weight.0.NAME; give the file of an adapter"
            )
        if match["name"] in _UNUSED:
            continue
        if match["name"] == "magnitude" and shape is None:
            shape = tuple(value.shape)
        # Vectors of norms had two axes in old files.
        flat = value.flatten() if match["name"].startswith("magnitude") else value
        layers.setdefault(match["layer"], {})[match["name"]] = values_of(key, flat, source)
    if not layers:
        raise AdapterError(f"{source}: has no tensors of an adapter; give the file of an adapter")
    try:
        settings = AdapterSettings.from_values(values, rank=_stored_rank(layers), magnitude=shape)
    except (ValueError, TypeError) as error:
        raise AdapterError(f"{source}, {SETTINGS}: {error}") from error
    check_layers(layers, settings, source)
    return Adapter(settings, layers, source)


def _stored_rank(layers: Mapping[str, Mapping[str, Tensor]]) -> int | None:
    """The rank of the first low-rank tensor."""
    axes = {"lora_A": 0, "lora_B": 1, "M_xs": 0}
    for tensors in layers.values():
        for name, value in tensors.items():
            if name in axes and value.ndim == 2:
                return int(value.shape[axes[name]])
    return None


StoredAdapter = tuple[dict[str, Tensor], Mapping[str, Any], str | None]
"""Tensors, settings and passport of a file."""


def _read_safetensors(path: Path) -> StoredAdapter:
    try:
        tensors, metadata = read_safetensors(path)
    except ValueError as error:
        raise AdapterError(str(error)) from error
    try:
        values = json.loads(metadata.get(SETTINGS, "{}"))
    except json.JSONDecodeError as error:
        raise AdapterError(f"{path}: its {SETTINGS} is not JSON ({error}); copy the file again") from error
    return tensors, _settings(values, path), metadata.get(PASSPORT)


def _read_torch(path: Path) -> StoredAdapter:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AdapterError(
            f"{path}: not an adapter, or one with objects that only code inside it can restore; give another "
            "file"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # what the bytes of a damaged pickle raise is unbounded
        raise AdapterError(f"{path}: truncated, damaged or no adapter at all; copy it again") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise AdapterError(f"{path}: has no 'state_dict' of tensors; give the file of an adapter")
    return state, _settings(content.get(SETTINGS) or {}, path), content.get(PASSPORT)


def _settings(values: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise AdapterError(f"{path}: its {SETTINGS} is a {type(values).__name__}, but an object is needed")
    return values


def _passport(text: str | None, path: Path) -> Passport | None:
    if text is None:
        return None
    try:
        return Passport.from_json(text)
    except (ValueError, TypeError) as error:
        raise AdapterError(f"{path}, {PASSPORT}: {error}; copy the file again") from error
