"""The weights in the layouts of files: ours, those of stable-audio-tools, autoencoders and adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stable_audio.adapters import Adapter, AdapterError, read_adapter
from stable_audio.adapters.errors import DamagedAdapterError
from stable_audio.adapters.files import trained_adapter, trained_layers
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.entries import weights_among
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import BASE_KEY, TRAINING_ENTRY, TRANSFORMS_KEY, refuse_newer
from stable_audio.checkpoints.keys import (
    AUTOENCODER_PARTS,
    DIFFUSION_DECODER,
    OURS,
    PARALLEL_PREFIXES,
    WRAPPERS,
    is_adapter,
    is_diffusion_autoencoder,
    starts,
    strip,
)
from stable_audio.checkpoints.stored_weights import StoredWeights
from stable_audio.transforms.adapters import ADAPTERS, Adapters


def unwrap(path: Path, content: dict[str, Any], use_ema: bool) -> StoredWeights:
    """The weights in what torch.save has written: a training checkpoint of any kind, or tensors by name.

    Raises:
        CheckpointError: it holds no weights, or those of an adapter whose model is not known.
    """
    if TRAINING_ENTRY in content:
        return unwrap_ours(path, content, use_ema)
    config = content.get("model_config")
    tensors = weights_among(content)
    if not tensors:
        raise CheckpointError(
            f"{path}: no weights found; its entries are {sorted(map(str, content))[:8]}, "
            "but a 'state_dict' of tensors is needed"
        )
    return unwrap_tensors(path, tensors, config, use_ema)


def unwrap_tensors(
    path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None, use_ema: bool
) -> StoredWeights:
    """The weights among tensors whose names tell their layout.

    Raises:
        CheckpointError: they are those of an adapter whose model is not known.
    """
    for prefix in PARALLEL_PREFIXES:
        if all(k.startswith(prefix) for k in tensors):
            tensors = strip(tensors, prefix)
    if adapter := next((k for k in tensors if is_adapter(k)), None):
        if (stored := _adapter_with_base(path)) is not None:
            return stored
        raise CheckpointError(
            f"{path}: holds a LoRA adapter ('{adapter}') that does not say which model it belongs to; add it "
            "to its model with --adapter (docs/adapters.md)"
        )
    if is_diffusion_autoencoder(tensors, config):
        return _plain(path, tensors, config)
    for name, (prefix, average, target) in WRAPPERS.items():
        if starts(tensors, prefix):
            return _wrapped(path, name, tensors, (prefix, average, target), use_ema, config)
    return _plain(path, tensors, config)


def _adapter_with_base(path: Path) -> StoredWeights | None:
    """The adapter in a file, if it says what it was trained on.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        adapter = read_adapter(path)
    except DamagedAdapterError as error:
        raise CheckpointError(str(error)) from error
    except AdapterError:
        return None
    if adapter.passport is None or adapter.passport.base is None:
        return None
    return StoredWeights(path, "adapter", {}, adapter=adapter, info={"step": adapter.passport.step})


def _wrapped(
    path: Path,
    name: str,
    tensors: dict[str, Tensor],
    prefixes: tuple[str, str, str],
    use_ema: bool,
    config: dict[str, Any] | None,
) -> StoredWeights:
    prefix, average, target = prefixes
    weights = strip(tensors, prefix)
    left_out = len(tensors) - len(weights)
    averaged = {target + k: v for k, v in strip(tensors, average).items()} if use_ema else {}
    weights.update(averaged)
    return StoredWeights(
        path,
        f"stable-audio-tools training checkpoint ({name})",
        weights,
        "ema" if averaged else "online",
        config,
        left_out - len(averaged),
    )


def _plain(path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None) -> StoredWeights:
    if starts(tensors, OURS):
        kind = "weights in our layout"
    elif starts(tensors, DIFFUSION_DECODER):
        kind = "diffusion autoencoder"
    elif starts(tensors, "model.", "conditioner.", "pretransform."):
        kind = "stable-audio-tools weights"
    elif starts(tensors, *AUTOENCODER_PARTS):
        kind = "autoencoder alone"
    else:
        kind = "weights of unknown layout"
    return StoredWeights(path, kind, tensors, config=config)


def unwrap_ours(path: Path, content: dict[str, Any], use_ema: bool) -> StoredWeights:
    """The weights in a training checkpoint of ours.

    Raises:
        CheckpointError: it is of a newer version, or the adapter that it holds is damaged.
    """
    entry = content[TRAINING_ENTRY]
    refuse_newer(path, entry["format_version"])
    tensors = strip(content["state_dict"], "model.")
    left_out = len(content["state_dict"]) - len(tensors)
    average = entry.get("ema") or {}
    weights = "online"
    if use_ema and average:
        weights = "ema"
        for key, value in average["average"].items():
            tensors[key] = value.to(tensors[key].dtype)
    base, records = entry.get(BASE_KEY), list(entry.get(TRANSFORMS_KEY) or ())
    adapter = _trained_adapter(path, tensors, records)
    if adapter is not None:
        tensors = {key: value for key, value in tensors.items() if not trained_layers({key: value})}
        records = [record for record in records if record["type"] != ADAPTERS]
    return StoredWeights(
        path,
        "training checkpoint",
        tensors,
        weights,
        content.get("model_config"),
        left_out,
        {"step": entry.get("step")},
        transforms=records,
        base=None if base is None else BaseFile(**base),
        adapter=adapter,
    )


def _trained_adapter(
    path: Path, tensors: Mapping[str, Tensor], records: Sequence[Mapping[str, Any]]
) -> Adapter | None:
    """The adapter that a run has trained instead of the weights.

    Raises:
        CheckpointError: it is damaged.
    """
    record = next((record for record in records if record["type"] == ADAPTERS), None)
    if record is None:
        return None
    settings = Adapters(**record.get("config", {})).settings
    try:
        return trained_adapter(tensors, settings, source=str(path))
    except AdapterError as error:
        raise CheckpointError(str(error)) from error
