"""Read checkpoint files of every layout, without running code from them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_audio.adapters.passport import config_hash
from stable_audio.audio.json_files import JsonError, parse_json_object, read_json_object
from stable_audio.checkpoints.base_file import BaseFile
from stable_audio.checkpoints.checksums import damaged_tensors
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.checkpoints.format import (
    BASE_KEY,
    FORMAT,
    SELF_DESCRIPTION,
    TRAINING_ENTRY,
    TRANSFORMS_KEY,
    refuse_newer,
)
from stable_audio.checkpoints.layouts import unwrap, unwrap_ours, unwrap_tensors
from stable_audio.checkpoints.shards import read_shards, stored_keys
from stable_audio.checkpoints.steps import step_in
from stable_audio.checkpoints.stored_weights import StoredWeights
from stable_audio.checkpoints.torch_file import damage_error, load_torch_file, refuse_foreign
from stable_audio.stored.diffusers_folder import diffusers_weights, is_diffusers
from stable_audio.stored.hub_names import how_to_write, parse
from stable_audio.stored.models import CONFIG_NAME, fetched_weights, weights_in
from stable_audio.stored.safetensors_files import read_safetensors
from stable_audio.stored.shards_folder import is_shards, newest_shards, numbered_shards
from stable_audio.wording import plural

log = logging.getLogger(__name__)

RUN_CONFIG = "model.json"
"""The config of a run in its folder."""


def resolve(path: str | Path, *, use_ema: bool = True) -> Path:
    """The file at `path`, or the preferred checkpoint in the folder of a run or a model, or on the hub; a
    folder that is itself a checkpoint in parts stays what it is.

    In the folder of a run that is the one with the latest step, and of one step the file before the parts.

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
        file = _weights_in(path, use_ema)
        if file is None:
            count = len([*path.glob("*.safetensors"), *path.glob("*.ckpt")])
            counted = plural(count, "checkpoint") if count else "no checkpoint"
            raise CheckpointError(f"{path}: the folder has {counted}; name the file to load")
        return file
    if not path.is_file():
        if (advice := how_to_write(name)) is not None:
            raise CheckpointError(f"{name}: no such file, and no name on the hub; {advice}")
        raise CheckpointError(
            f"{path}: no such file; give a .ckpt or .safetensors file, or a folder with one or with a "
            "checkpoint in parts, or the name of a model on the Hugging Face hub (owner/name)"
        )
    return path


def _weights_in(folder: Path, use_ema: bool) -> Path | None:
    """The checkpoint to take from the folder of a run or a model; None if there is none, or no preferred."""
    file = weights_in(folder, prefer=_preferred(use_ema)) or diffusers_weights(folder)
    if file is None or not numbered_shards(folder):
        return newest_shards(folder) if file is None else file
    # Of a run in parts, last.safetensors is as old as its last end or stop, and has averaged weights alone.
    at = step_in(file)
    suffices = use_ema or file.suffix == ".ckpt"
    newer = newest_shards(folder, since=at + 1 if suffices else at)
    if newer is not None:
        log.info("%s is of step %d; taking %s", file, at, newer)
    return newer or file


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
        return unwrap_ours(path, read_shards(path, wanted=_of_use(path, use_ema)), use_ema)
    refuse_foreign(path)
    if is_diffusers(path):
        return _of_diffusers(path)
    if path.suffix == ".safetensors" or _begins_like_safetensors(path):
        weights = _read_safetensors(path, use_ema)
    else:
        weights = unwrap(path, load_torch_file(path), use_ema)
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


def _begins_like_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path, use_ema: bool) -> StoredWeights:
    try:
        tensors, metadata = read_safetensors(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if damaged := damaged_tensors(tensors, metadata):
        raise damage_error(path, damaged)
    config = _embedded_config(path, metadata.get("config"))
    if metadata.get("format") != FORMAT:
        return unwrap_tensors(path, tensors, config, use_ema)
    refuse_newer(path, int(metadata.get("format_version", 0)))
    info = {k: v for k, v in metadata.items() if k not in SELF_DESCRIPTION}
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
