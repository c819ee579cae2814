"""Descriptions of the configs that come with the package, and copies of them to edit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import read_json_object
from stable_audio.shipped import KINDS, shipped, shipped_file


def described() -> dict[str, dict[str, str]]:
    """Key of KINDS -> name of every shipped file of the kind -> a description in one line."""
    return {
        kind: {name: describe(path) for name, path in shipped(kind).items()}
        for kind, describe in _DESCRIBE.items()
    }


def copy_config(name: str, to: Path, *, overwrite: bool = False) -> Path:
    """Copy a shipped file to a file or into a folder, and return the path of the copy.

    Weights that it names by a relative path are copied beside it.

    Raises:
        ValueError: no file or several files have this name.
        FileExistsError: a target exists, and `overwrite` is False.
    """
    matches = [path for kind in KINDS if (path := shipped_file(name, kind)) is not None]
    if not matches:
        raise ValueError(f"no config is called '{name}'; `stable-audio configs` lists them")
    if len(matches) > 1:
        raise ValueError(f"'{name}' is both a model and a dataset file; {_apart(matches)}")
    target = to / matches[0].name if to.is_dir() else to
    weights = _relative_files(_read(matches[0]), matches[0].parent) if matches[0].suffix == ".json" else {}
    for file in (target, *(target.parent / name for name in weights)):
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} already exists; give --overwrite, or another place with --out")
    for relative, original in weights.items():
        (target.parent / relative).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target.parent / relative) as temporary:
            shutil.copyfile(original, temporary)
    # The path of the schema is relative to the original's folder, so it would be wrong in the copy.
    text = re.sub(r'\n\s*"\$schema":[^\n]*', "", matches[0].read_text(encoding="utf-8"), count=1)
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def _relative_files(part: Any, folder: Path) -> dict[str, Path]:
    """Files in `folder` that a config names by `path`: relative path -> file."""
    if isinstance(part, list):
        return {k: v for item in part for k, v in _relative_files(item, folder).items()}
    if not isinstance(part, dict):
        return {}
    files = {k: v for item in part.values() for k, v in _relative_files(item, folder).items()}
    name = part.get("path")
    if isinstance(name, str) and not Path(name).is_absolute() and (folder / name).is_file():
        files[name] = folder / name
    return files


def _apart(paths: list[Path]) -> str:
    return "name it " + " or ".join(f"{path.parent.name}/{path.stem}" for path in paths)


def _of_model(path: Path) -> str:
    data = _read(path)
    model = data["model"]
    seconds = data["sample_size"] / data["sample_rate"]
    channels = {1: "mono", 2: "stereo"}.get(data.get("audio_channels", 2), f"{data.get('audio_channels')} ch")
    diffusion = model.get("diffusion", model)
    parts = [data["model_type"], diffusion.get("type") or _encoder(model)]
    if (inner := model.get("pretransform")) is not None:
        parts.append(f"on {inner['type']}")
    conditions = [c["id"] for c in model.get("conditioning", {}).get("configs", ())]
    if conditions:
        parts.append(f"from {', '.join(conditions)}")
    return f"{' '.join(parts)}; {channels}, {data['sample_rate']} Hz, {seconds:.3g} s"


def _encoder(model: dict[str, Any]) -> str:
    part = model.get("encoder", {}).get("type", "")
    bottleneck = model.get("bottleneck") or {}
    return " ".join(filter(None, [part, bottleneck.get("type")]))


def _of_dataset(path: Path) -> str:
    data = _read(path)
    other_keys = [key for key in data if key not in ("$schema", "dataset_type", "datasets")]
    places = [str(d.get("path") or d.get("s3_path")) for d in data.get("datasets", ())]
    words = [data["dataset_type"], *([f"of {', '.join(places)}"] if places else [])]
    return " ".join(words) + (f"; sets {', '.join(other_keys)}" if other_keys else "")


def _of_prompts(path: Path) -> str:
    count = sum(1 for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    return f"{count} prompts, for --prompts of the generate command"


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path)


_DESCRIBE = {"model": _of_model, "dataset": _of_dataset, "prompts": _of_prompts}
