"""Models named in a file by path or hub id: where their weights are, and the config that comes with them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import parse_json_object, read_json_object
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
"""Names that a run's or a published model's folder gives to its weights, best first."""

CONFIG_NAME = "model_config.json"
"""What a published model calls its config."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def locate(name: str, base: Path) -> str:
    """An absolute path if `name` is there as seen from the folder `base`, or else the hub id itself.

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


def weights_file(located: str) -> Path:
    """The file with the weights of what `locate` found; from the hub they are downloaded once.

    Raises:
        ValueError, OSError, ImportError: why there is none, in one sentence.
    """
    path = Path(located)
    if not path.is_absolute():
        return hub_file(located, NAMES_IN_FOLDER)
    if not path.is_dir():
        return path
    found = weights_in(path)
    if found is None:
        raise ValueError(f"{path}: the folder has no checkpoint, or more than one; name the file")
    return found


def weights_in(folder: Path, *, prefer: str = "") -> Path | None:
    """The weights that a folder offers, or None.

    Args:
        prefer: suffix of the files to look at first, such as ".ckpt".
    """
    # Stable: within a kind the order of preference stays.
    for name in sorted(NAMES_IN_FOLDER, key=lambda n: not n.endswith(prefer)):
        if (folder / name).is_file():
            return folder / name
    single = sorted([*folder.glob("*.safetensors"), *folder.glob("*.ckpt")])
    return single[0] if len(single) == 1 else None


def stored_config(located: str) -> tuple[dict[str, Any], Path]:
    """The model config inside the weights or beside them, and the folder that its own paths start from.

    Raises:
        ValueError, OSError, ImportError: why there is none, in one sentence.
    """
    if not Path(located).is_absolute():
        # The config alone is small: weights wait until they are needed.
        path = hub_file(located, (CONFIG_NAME, *NAMES_IN_FOLDER))
    else:
        path = weights_file(located)
    if path.name == CONFIG_NAME:
        return read_json_object(path), path.parent
    beside = path.with_name(CONFIG_NAME)
    found = _inside(path)
    if found is None and beside.is_file():
        found = read_json_object(beside)
    if found is None:
        raise ValueError(
            f"{path}: no config inside the file or beside it ({CONFIG_NAME}); give the pretransform's "
            "config in this file as well"
        )
    return found, path.parent


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
