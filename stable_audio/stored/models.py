"""Models named in a file by path or hub id: where their weights are, and the config that comes with them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import parse_json_object, read_json_object
from stable_audio.shipped import file_or_shipped
from stable_audio.stored.contents import why_not_weights
from stable_audio.stored.hub import hub_file

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

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def locate(name: str, base: Path) -> str:
    """An absolute path if `name` exists relative to the folder `base`, otherwise `name` as a hub id.

    Raises:
        ValueError: it is neither.
    """
    path = base / Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if _HUB_ID.fullmatch(name):
        return name
    raise ValueError(
        f"found '{name}', but {path} does not exist, and it is no hub id either (owner/name, or "
        "owner/name@revision)"
    )


def weights_file(location: str) -> Path:
    """The file with the weights at `location`, a result of `locate`; hub files are downloaded once.

    Raises:
        ValueError, OSError, ImportError: why there is none, in one sentence.
    """
    path = Path(location)
    if not path.is_absolute():
        return hub_file(location, NAMES_IN_FOLDER)
    if not path.is_dir():
        return path
    weights = weights_in(path)
    if weights is None:
        raise ValueError(f"{path}: the folder has no checkpoint, or more than one; name the file")
    return weights


def weights_in(folder: Path, *, prefer: str = "") -> Path | None:
    """The file with the weights in a folder; None if there is none, or several without a usual name.

    Args:
        prefer: suffix of the files to look at first, such as ".ckpt".
    """
    # Stable: within a kind the order of preference stays.
    for name in sorted(NAMES_IN_FOLDER, key=lambda n: not n.endswith(prefer)):
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
        # The config alone is small: weights wait until they are needed.
        path = hub_file(location, (CONFIG_NAME, *NAMES_IN_FOLDER))
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
    if (reason := why_not_weights(path)) is not None:
        raise ValueError(f"{path}: {reason}")
    if path.suffix == ".safetensors":
        text = _header(path).get("__metadata__", {}).get("config")
        return None if text is None else parse_json_object(text, source=f"{path}: the config inside")
    import torch

    try:
        content = torch.load(path, map_location="meta", weights_only=True)
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
