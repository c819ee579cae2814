"""The configs that come with the package, by name: `model_configs/` and `dataset_configs/`.

A checkout has them beside the package, an installed wheel inside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent


class Kind(NamedTuple):
    """The folder and suffix of one kind of shipped file."""

    folder: str
    suffix: str


KINDS: dict[str, Kind] = {
    "model": Kind("model_configs", ".json"),
    "dataset": Kind("dataset_configs", ".json"),
    "prompts": Kind("model_configs", ".jsonl"),
}
"""The kinds of shipped file."""

_SCHEMA = "schema.json"


def shipped(kind: str) -> dict[str, Path]:
    """Shipped files by name, such as `stable_audio/stable_audio_open_1_0`, sorted by name.

    Args:
        kind: key of KINDS.
    """
    folder, suffix = KINDS[kind]
    roots = [base / folder for base in (PACKAGE, PACKAGE.parent) if (base / folder).is_dir()]
    files = sorted(roots[0].rglob(f"*{suffix}")) if roots else []
    return {
        path.relative_to(roots[0]).with_suffix("").as_posix(): path for path in files if path.name != _SCHEMA
    }


def shipped_file(name: str, kind: str) -> Path | None:
    """The shipped file called `name`, or None.

    Args:
        name: the full name, its last part where that is unique, or the path in a checkout, such as
            `dataset_configs/s3.json`.
        kind: key of KINDS.
    """
    files = shipped(kind)
    name = name.removesuffix(KINDS[kind].suffix).removeprefix(f"{KINDS[kind].folder}/")
    if name in files:
        return files[name]
    matches = [path for key, path in files.items() if key.rpartition("/")[2] == name]
    return matches[0] if len(matches) == 1 else None


def file_or_shipped(source: str | os.PathLike[str], kind: str) -> str | os.PathLike[str]:
    """`source` if it exists, otherwise the shipped file of that name, otherwise `source` unchanged."""
    if os.path.exists(source):
        return source
    return shipped_file(os.fspath(source), kind) or source
