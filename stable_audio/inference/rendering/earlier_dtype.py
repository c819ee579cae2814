"""The type of weights that a render which goes on, or is shared by several processes, computes in."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from stable_audio.inference.precision import AUTO, DTYPES
from stable_audio.inference.rendering.stored import stored_content


def settled_dtype(name: str, folder: Path, *, device: torch.device | str, processes: int) -> str:
    """The type that `name` stands for, "auto" where it may be measured.

    On a CPU "auto" is measured, so that another start, or another process, might decide otherwise and find
    none of the clips that there are. Hence it is the type of the latest clip in the folder, and float32 for
    several processes.

    Args:
        name: as for `place`.
        folder: of the clips, which need not exist.
        processes: that share the clips.
    """
    if name != AUTO or torch.device(device).type != "cpu":
        return name
    return _latest_dtype(folder) or ("float32" if processes > 1 else name)


def _latest_dtype(folder: Path) -> str | None:
    """The type in the latest recipe of a folder; None where there is none."""
    try:
        files = [entry for entry in os.scandir(folder) if entry.name.endswith(".json")]
        files.sort(key=lambda entry: (entry.stat().st_mtime_ns, entry.name), reverse=True)
    except OSError:  # no folder
        return None
    dtypes = (_dtype_in(entry.path) for entry in files)
    return next((dtype for dtype in dtypes if dtype is not None), None)


def _dtype_in(path: str) -> str | None:
    """The type in the recipe of a file; None where it has none."""
    try:
        recipe = stored_content(path).get("recipe")
    except (OSError, ValueError):  # it is no JSON
        return None
    dtype = recipe.get("dtype") if isinstance(recipe, dict) else None
    return dtype if dtype in DTYPES else None
