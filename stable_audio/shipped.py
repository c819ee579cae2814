"""The configs that come with the package, by name: `model_configs/` and `dataset_configs/`.

A checkout has them beside the package, an installed wheel inside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent


class Kind(NamedTuple):
    """A folder, and the suffix of the files in it that people use."""

    folder: str
    suffix: str


KINDS: dict[str, Kind] = {
    "model": Kind("model_configs", ".json"),
    "dataset": Kind("dataset_configs", ".json"),
    "prompts": Kind("model_configs", ".jsonl"),
}
"""What a file may be asked for as."""

_SCHEMA = "schema.json"


def shipped(kind: str) -> dict[str, Path]:
    """Name, such as `stable_audio/stable_audio_open_1_0` -> file, in order of name.

    Args:
        kind: key of KINDS.
    """
    folder, suffix = KINDS[kind]
    roots = [base / folder for base in (PACKAGE, PACKAGE.parent) if (base / folder).is_dir()]
    found = sorted(roots[0].rglob(f"*{suffix}")) if roots else []
    return {
        path.relative_to(roots[0]).with_suffix("").as_posix(): path for path in found if path.name != _SCHEMA
    }


def named(name: str, kind: str) -> Path | None:
    """The shipped file that `name` means: its whole name, or the last part of it where that is unique.

    Its path in a checkout, such as `dataset_configs/s3.json`, is a name as well.
    """
    known = shipped(kind)
    name = name.removesuffix(KINDS[kind].suffix).removeprefix(f"{KINDS[kind].folder}/")
    if name in known:
        return known[name]
    alike = [path for key, path in known.items() if key.rpartition("/")[2] == name]
    return alike[0] if len(alike) == 1 else None


def file_or_shipped(source: str | os.PathLike[str], kind: str) -> str | os.PathLike[str]:
    """`source` where it exists, else the shipped file of that name, else `source` all the same."""
    if os.path.exists(source):
        return source
    return named(os.fspath(source), kind) or source
