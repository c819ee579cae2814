"""Models named in a file by path or hub id: where their weights are, and the config that comes with them."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stable_audio.audio.json_files import parse_json_object, read_json_object
from stable_audio.network import hub_in_reach
from stable_audio.shipped import file_or_shipped
from stable_audio.stored.contents import why_not_weights
from stable_audio.stored.hub import hub_file, hub_weights, optional_hub_file
from stable_audio.stored.hub_names import HubName, how_to_write, name_of_cached, parse
from stable_audio.stored.shards_folder import REST, is_shards, newest_shards

log = logging.getLogger(__name__)

NAMES_IN_FOLDER = (
    "last.safetensors",
    "checkpoints/last.safetensors",
    "last.ckpt",
    "checkpoints/last.ckpt",
    "model.safetensors",
    "model.ckpt",
)
"""Usual names of the weights in the folder of a run or of a published model, best first."""

CONFIG_NAME = "model_config.json"
"""The name of a published model's config."""


def locate(name: str, base: Path) -> str:
    """An absolute path if `name` exists relative to the folder `base`, otherwise `name` as a hub id.

    Raises:
        ValueError: it is neither.
    """
    path = base / Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if parse(name) is not None:
        return name
    raise ValueError(
        f"found '{name}', but {path} does not exist, and it is no hub id either "
        f"({how_to_write(name) or 'owner/name, or owner/name@revision'})"
    )


def weights_file(location: str) -> Path:
    """The file with the weights at `location`, a result of `locate`, or the folder if they are in parts; hub
    files are downloaded once.

    Raises:
        ValueError, OSError, ImportError: why there is none, in one sentence.
    """
    path = Path(location)
    if not path.is_absolute():
        return hub_weights(location, NAMES_IN_FOLDER)
    if not path.is_dir() or is_shards(path):
        return path
    weights = weights_in(path) or newest_shards(path)
    if weights is None:
        raise ValueError(f"{path}: the folder has no checkpoint, or more than one; name the file")
    return weights


def fetched_weights(name: HubName, *, prefer: str = "") -> Path:
    """The file of weights of a repository, downloaded together with the config beside it, if it has one.

    Args:
        prefer: as for `weights_in`.

    Raises:
        ValueError, OSError, ImportError: why there is none, in one sentence.
    """
    # The config comes first, since it is small, and from the same commit.
    config = _fetched_config(name)
    cached = None if config is None else name_of_cached(config)
    pinned = name if cached is None else HubName(name.repository, cached.revision, name.file)
    try:
        return hub_weights(pinned, _by_preference(prefer))
    except OSError:
        # Without the hub's listing, weights with a name of their own show in the cache only.
        stored = None if config is None or name.file else weights_in(config.parent, prefer=prefer)
        if stored is None:
            raise
        return stored


def _fetched_config(name: HubName) -> Path | None:
    try:
        return optional_hub_file(HubName(name.repository, name.revision), [_config_beside(name)])
    except OSError as error:
        if hub_in_reach():
            log.warning("%s", error)
        return None  # its weights may be in the cache, with a config inside


def _config_beside(name: HubName) -> str:
    return str(PurePosixPath(name.file).with_name(CONFIG_NAME)) if name.file else CONFIG_NAME


def _by_preference(suffix: str) -> list[str]:
    # Stable: within a kind the order of preference stays.
    return sorted(NAMES_IN_FOLDER, key=lambda n: not n.endswith(suffix))


def weights_in(folder: Path, *, prefer: str = "") -> Path | None:
    """The file with the weights in a folder; None if there is none, or several without a usual name.

    Args:
        prefer: suffix of the files to look at first, such as ".ckpt".
    """
    for name in _by_preference(prefer):
        if (folder / name).is_file():
            return folder / name
    single = sorted([*folder.glob("*.safetensors"), *folder.glob("*.ckpt")])
    return single[0] if len(single) == 1 else None


def stored_config(location: str) -> tuple[dict[str, Any], Path]:
    """The model config inside the weights or beside them, and the folder to which paths in it are relative.

    Raises:
        ValueError, OSError, ImportError: why there is none, in one sentence.
    """
    if not Path(location).is_absolute():
        path = _hub_config(location)
    else:
        path = weights_file(location)
    if path.name == CONFIG_NAME:
        return read_json_object(path), path.parent
    beside = path.with_name(CONFIG_NAME)
    config = _inside(path)
    if config is None and beside.is_file():
        config = read_json_object(beside)
    if config is None:
        raise ValueError(
            f"{path}: no config inside the file or beside it ({CONFIG_NAME}); give the pretransform's "
            "config in this file as well"
        )
    return config, path.parent


def _hub_config(location: str) -> Path:
    """The config of a repository, or else its weights, which may have one inside."""
    name = parse(location)
    if name is None or name.file is None:
        # The config alone is small: weights wait until they are needed.
        return hub_file(location, (CONFIG_NAME, *NAMES_IN_FOLDER))
    return hub_file(HubName(name.repository, name.revision), (_config_beside(name), name.file))


def stored_model_type(config: str | Path | None, checkpoint: str | Path | None) -> str:
    """`model_type` of a model file, or else of the config that comes with weights; "" if neither can be read.

    Args:
        config: path of the model file, or name of one that comes with the package.
        checkpoint: file or folder of the weights.
    """
    try:
        if config:
            values = read_json_object(file_or_shipped(config, "model"))
        elif checkpoint and Path(checkpoint).exists():
            values, _ = stored_config(str(Path(checkpoint).absolute()))
        else:
            return ""
    except (OSError, ValueError, ImportError):
        return ""
    return str(values.get("model_type", ""))


def _inside(path: Path) -> dict[str, Any] | None:
    in_parts = is_shards(path)
    if not in_parts and (reason := why_not_weights(path)) is not None:
        raise ValueError(f"{path}: {reason}")
    if not in_parts and path.suffix == ".safetensors":
        text = _header(path).get("__metadata__", {}).get("config")
        return None if text is None else parse_json_object(text, source=f"{path}: the config inside")
    import torch

    try:
        content = torch.load(path / REST if in_parts else path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: not a checkpoint, or one that only running code would restore") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: truncated, damaged or no checkpoint at all; copy it again") from error
    config = content.get("model_config") if isinstance(content, dict) else None
    return dict(config) if isinstance(config, Mapping) else None


def _header(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size < path.stat().st_size else b""
    return parse_json_object(text, source=f"{path}: truncated, or not a file of this kind")
