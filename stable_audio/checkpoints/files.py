"""Read checkpoint files of every layout, without running code from them."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.adapters import Adapter, AdapterError, read_adapter
from stable_audio.adapters.files import trained_layers
from stable_audio.adapters.passport import config_hash
from stable_audio.audio.json_files import JsonError, parse_json_object, read_json_object
from stable_audio.characters import refuse_name
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.checksums import (
    ALGORITHM_KEY,
    CHECKSUMS_KEY,
    damaged_members,
    damaged_tensors,
)
from stable_audio.checkpoints.entries import weights_among
from stable_audio.checkpoints.errors import CheckpointError
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
from stable_audio.checkpoints.shards import is_shards, newest_shards, read_shards, stored_keys
from stable_audio.stored.contents import why_not_weights
from stable_audio.stored.diffusers_folder import diffusers_weights, is_diffusers
from stable_audio.stored.hub_names import parse
from stable_audio.stored.models import CONFIG_NAME, fetched_weights, weights_in
from stable_audio.stored.safetensors_files import read_safetensors
from stable_audio.transforms.adapters import ADAPTERS, Adapters

log = logging.getLogger(__name__)

FORMAT = "stable-audio"
FORMAT_VERSION = 2
WHOLE_VERSION = 1
"""What files say that need neither transforms nor a base to be loaded, which earlier versions can read."""

RUN_CONFIG = "model.json"
"""The config of a run in its folder."""

TRAINING_ENTRY = "stable_audio"
TRANSFORMS_KEY, BASE_KEY = "transforms", "base"
_SELF_DESCRIPTION = (
    "config",
    "format",
    "format_version",
    TRANSFORMS_KEY,
    BASE_KEY,
    ALGORITHM_KEY,
    CHECKSUMS_KEY,
)


@dataclass(frozen=True)
class StoredWeights:
    """The content of a weights file.

    Attributes:
        path: the file that holds the weights.
        kind: description of the file's kind, for messages.
        tensors: weights by the file's own names, training wrapper removed.
        weights: "ema" or "online": which of the two `tensors` holds.
        config: the embedded model config, or None.
        left_out: number of entries that only serve training (optimizer, counters, discriminators, ...).
        transforms: what was done to the model before these weights were trained, as records.
        base: the file that has all other weights of the model, None where `tensors` is whole.
        adapter: an adapter to add to the weights; with a passport that names its base where there is no
            `base`.
        adapted: the weights of that base, once they are read.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    weights: str = "online"
    config: dict[str, Any] | None = None
    left_out: int = 0
    info: dict[str, Any] = field(default_factory=dict)
    transforms: Sequence[Mapping[str, Any]] = ()
    base: BaseFile | None = None
    adapter: Adapter | None = None
    adapted: StoredWeights | None = None

    @property
    def is_autoencoder(self) -> bool:
        """True when the file holds an autoencoder and no diffusion model."""
        others = (OURS, "model.", DIFFUSION_DECODER)
        return starts(self.tensors, *AUTOENCODER_PARTS) and not starts(self.tensors, *others)


def resolve(path: str | Path, *, use_ema: bool = True) -> Path:
    """The file at `path`, or the preferred checkpoint in the folder of a run or a model, or on the hub.

    Args:
        path: a file or folder; where neither exists, the name of a repository on the Hugging Face hub or of a
            file in one, see `stable_audio.stored.hub_names.parse`, which is downloaded once.
        use_ema: False prefers the training checkpoint, which also has the weights as trained.

    Raises:
        CheckpointError: there is no such file, or no checkpoint to choose, or it may not be downloaded.
    """
    name, path = str(path), Path(path).expanduser()
    if not path.exists() and (hub_name := parse(name)) is not None:
        try:
            return fetched_weights(hub_name, prefer=_preferred(use_ema))
        except (ValueError, OSError, ImportError) as error:
            raise CheckpointError(str(error)) from error
    if is_shards(path):
        return path
    if path.is_dir():
        file = weights_in(path, prefer=_preferred(use_ema)) or diffusers_weights(path)
        file = newest_shards(path) if file is None else file
        if file is None:
            count = len([*path.glob("*.safetensors"), *path.glob("*.ckpt")])
            counted = f"{count} checkpoints" if count else "no checkpoint"
            raise CheckpointError(f"{path}: the folder has {counted}; name the file to load")
        return file
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give a .ckpt or .safetensors file, or a folder with one, or the name of "
            "a model on the Hugging Face hub (owner/name)"
        )
    return path


def _preferred(use_ema: bool) -> str:
    return "" if use_ema else ".ckpt"


def read_checkpoint(path: str | Path, *, use_ema: bool = True) -> StoredWeights:
    """Read the weights of a file of any layout, on the CPU.

    Args:
        use_ema: take the averaged weights where the file has both.

    Raises:
        CheckpointError: missing, truncated, foreign, or would need to run code to be read.
    """
    path = resolve(path, use_ema=use_ema)
    if is_shards(path):
        return _ours(path, read_shards(path, wanted=_of_use(path, use_ema)), use_ema)
    _refuse_foreign(path)
    if is_diffusers(path):
        return _of_diffusers(path)
    if path.suffix == ".safetensors" or _begins_like_safetensors(path):
        weights = _read_safetensors(path, use_ema)
    else:
        weights = _unwrap(path, load_torch_file(path), use_ema)
    if weights.weights == "ema" and not use_ema:
        log.warning("%s holds averaged weights only; the weights as trained are in the .ckpt beside it", path)
    if weights.adapter is not None:
        weights = _with_config_of_run(weights)
    elif weights.config is None:
        weights = _with_config_beside(weights)
    return weights


def _of_use(path: Path, use_ema: bool) -> Callable[[str], bool]:
    """Which tensors of a checkpoint in parts are weights to use: the average, and those that have none."""
    average = f"{TRAINING_ENTRY}/ema/average/"
    averaged = (
        {key[len(average) :] for key in stored_keys(path) if key.startswith(average)} if use_ema else set()
    )

    def wanted(key: str) -> bool:
        if key.startswith(average):
            return use_ema
        weight = key.removeprefix("state_dict/model.")
        return weight != key and weight not in averaged

    return wanted


def _of_diffusers(path: Path) -> StoredWeights:
    from stable_audio.checkpoints.diffusers.stable_audio_3.reading import read_folder

    tensors, config = read_folder(path.parent)
    return StoredWeights(path, "diffusers", tensors, config=config)


def load_torch_file(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """A dictionary written by torch.save, tensors on the CPU, nothing in it executed.

    Args:
        verify: compare the bytes with the checksums in the file; False where that has been done.

    Raises:
        CheckpointError: missing, truncated, damaged, foreign, or would need to run code to be read.
    """
    _refuse_foreign(path)
    try:
        archive = zipfile.is_zipfile(path)
        if verify and archive and (damaged := damaged_members(path)):
            raise _damage(path, damaged)
        # Memory-mapped, so that entries which are not used take no memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint, or one with objects that only code inside it can restore; "
            "give another file, or save it again with tensors and plain values only"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or _short(error)})") from error
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # what the bytes of a damaged pickle raise is unbounded
        raise CheckpointError(f"{path}: truncated, damaged or no checkpoint at all; copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, but a dictionary is needed")
    return content


def _damage(path: Path, parts: list[str]) -> CheckpointError:
    listed = ", ".join(parts[:3]) + (", ..." if len(parts) > 3 else "")
    return CheckpointError(
        f"{path}: damaged since it was written: {len(parts)} of its parts differ from their checksums "
        f"({listed}); copy it again, or take another checkpoint"
    )


def _refuse_foreign(path: Path) -> None:
    refuse_name(path)
    try:
        reason = why_not_weights(path)
    except OSError as error:  # such as of a folder, a link to nothing, or a file of somebody else
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or _short(error)})") from error
    if reason is not None:
        raise CheckpointError(f"{path}: {reason}")


def _begins_like_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path, use_ema: bool) -> StoredWeights:
    try:
        tensors, metadata = read_safetensors(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if damaged := damaged_tensors(tensors, metadata):
        raise _damage(path, damaged)
    config = _embedded_config(path, metadata.get("config"))
    if metadata.get("format") != FORMAT:
        return _unwrap_tensors(path, tensors, config, use_ema)
    version = int(metadata.get("format_version", 0))
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer version (format {version}, this one reads up to {FORMAT_VERSION}); "
            "upgrade stable-audio"
        )
    info = {k: v for k, v in metadata.items() if k not in _SELF_DESCRIPTION}
    transforms, base = (json.loads(metadata.get(key, "null")) for key in (TRANSFORMS_KEY, BASE_KEY))
    return StoredWeights(
        path,
        "inference file",
        tensors,
        metadata.get("weights", "online"),
        config,
        info=info,
        transforms=transforms or (),
        base=None if base is None else BaseFile(**base),
    )


def _embedded_config(path: Path, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return parse_json_object(text, source=f"{path}: the config inside")
    except JsonError as error:
        raise CheckpointError(f"{error}; give the model file itself with --model-config") from error


def _unwrap(path: Path, content: dict[str, Any], use_ema: bool) -> StoredWeights:
    if TRAINING_ENTRY in content:
        return _ours(path, content, use_ema)
    config = content.get("model_config")
    tensors = weights_among(content)
    if not tensors:
        raise CheckpointError(
            f"{path}: no weights found; its entries are {sorted(map(str, content))[:8]}, "
            "but a 'state_dict' of tensors is needed"
        )
    return _unwrap_tensors(path, tensors, config, use_ema)


def _unwrap_tensors(
    path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None, use_ema: bool
) -> StoredWeights:
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
    """The adapter in a file, if it says what it was trained on."""
    try:
        adapter = read_adapter(path)
    except AdapterError:
        return None
    if adapter.passport is None or adapter.passport.base is None:
        return None
    return StoredWeights(path, "adapter", {}, adapter=adapter, info={"step": adapter.passport.step})


def _with_config_of_run(weights: StoredWeights) -> StoredWeights:
    """An adapter with the config of its run, where it lies in that run's folder."""
    passport = weights.adapter.passport if weights.adapter is not None else None
    for folder in (weights.path.parent, weights.path.parent.parent):
        file = folder / RUN_CONFIG
        if weights.config is not None or passport is None or not file.is_file():
            continue
        try:
            config = read_json_object(file)
        except (JsonError, OSError):  # the base has a config, too
            continue
        if config_hash(config) == passport.config_hash:
            return replace(weights, config=config)
    return weights


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


def _ours(path: Path, content: dict[str, Any], use_ema: bool) -> StoredWeights:
    entry = content[TRAINING_ENTRY]
    if entry["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: written by a newer version (format {entry['format_version']}, this one reads up to "
            f"{FORMAT_VERSION}); upgrade stable-audio"
        )
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
    """The adapter that a run has trained instead of the weights."""
    record = next((record for record in records if record["type"] == ADAPTERS), None)
    if record is None:
        return None
    settings = Adapters(**record.get("config", {})).settings
    return Adapter(settings, trained_layers(tensors), source=str(path))


def _with_config_beside(weights: StoredWeights) -> StoredWeights:
    """Published models keep `model_config.json` in the same folder."""
    beside = weights.path.with_name(CONFIG_NAME)
    if not beside.is_file():
        return weights
    try:
        config = read_json_object(beside)
    except (JsonError, OSError) as error:
        raise CheckpointError(f"{error}; the model file beside {weights.path.name} must be whole") from error
    return replace(weights, config=config)


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
