"""Captions and other metadata that lie beside the sound: `.txt`, `.json`, and a CSV or JSONL manifest."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import JsonError, parse_json_object
from stable_audio.data.base import DataError, Rejected
from stable_audio.data.scan import why_no_file
from stable_audio.types import Metadata

MANIFEST_NAMES = ("metadata.jsonl", "metadata.csv")
PATH_COLUMNS = ("path", "relpath", "file_name", "filename", "file")
CAPTION_COLUMNS = ("prompt", "text", "caption")
RESERVED = frozenset({"path", "relpath", "timestamps", "padding_mask", "sample_rate", "load_time", "dataset"})
"""Keys that the loader itself fills; side-car files cannot change them."""


class CaptionError(ValueError):
    """A side-car file cannot be used."""


class Captions:
    """Metadata of the files of one folder, later sources winning: manifest row, `x.txt`, `x.json`.

    What is null or blank wins over nothing.

    Args:
        root: folder that manifest paths are relative to.
        manifest: a .csv or .jsonl file; None: `metadata.jsonl` or `metadata.csv` in `root`, if there and
            if it has a column that names the file.
        sidecars: whether `.txt` and `.json` files beside the sound are read.

    Attributes:
        problems: manifest rows for which there is no file.

    Raises:
        DataError: the manifest cannot be read.
    """

    def __init__(self, root: str, *, manifest: str | None = None, sidecars: bool = True) -> None:
        self.root = root
        self.sidecars = sidecars
        self.rows: dict[str, Metadata] = {}
        self.problems: list[Rejected] = []
        source = manifest if manifest is not None else _default_manifest(root)
        if source is not None:
            self.rows = _by_path(_read_manifest(source), source, root, required=manifest is not None)
            self.problems = [
                Rejected(p, f"named in {source} but not there") for p in self.rows if not os.path.isfile(p)
            ]

    def __call__(self, path: str) -> Metadata:
        """Metadata of the sound file `path`; empty when nothing describes it.

        Raises:
            CaptionError: a side-car file is not readable text or not a JSON object.
        """
        sources: list[Metadata] = [self.rows.get(os.path.normpath(path), {})]
        if self.sidecars:
            base = os.path.splitext(path)[0]
            text = _read_text(base + ".txt")
            sources += [{} if text is None else {"prompt": text.strip()}, _read_json(base + ".json")]
        found: Metadata = {}
        for source in sources:
            said = with_prompt(source).items()
            found.update((k, v) for k, v in said if k not in RESERVED and (k not in found or not _blank(v)))
        return found


def with_prompt(metadata: Metadata) -> Metadata:
    """`text` and `caption` also serve as `prompt`, where that is absent, null or blank.

    A prompt of null is left out; lists of one text are unwrapped.
    """
    values = [_unwrapped(metadata[name]) for name in CAPTION_COLUMNS if name in metadata]
    prompt = _unwrapped(metadata.get("prompt"))
    if _blank(prompt):
        texts = [v for v in values if isinstance(v, str)]
        prompt = next((t for t in texts if not _blank(t)), next(iter(texts), None))
    rest = {k: v for k, v in metadata.items() if k != "prompt"}
    return rest if prompt is None else {"prompt": prompt, **rest}


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _unwrapped(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _read_text(path: str) -> str | None:
    try:
        if not os.path.isfile(path) and os.path.lexists(path):
            raise CaptionError(f"caption {os.path.basename(path)} {why_no_file(path)}")
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionError(f"caption {os.path.basename(path)} cannot be read ({error})") from error


def _read_json(path: str) -> Metadata:
    text = _read_text(path)
    if text is None:
        return {}
    try:
        return parse_json_object(text, source=os.path.basename(path))
    except JsonError as error:
        raise CaptionError(str(error)) from error


def _default_manifest(root: str) -> str | None:
    candidates = [os.path.join(root, name) for name in MANIFEST_NAMES]
    return next((c for c in candidates if os.path.isfile(c)), None)


def _read_manifest(path: str) -> list[Metadata]:
    suffix = os.path.splitext(path)[1].lower()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            if suffix == ".csv":
                return [_typed(row) for row in csv.DictReader(file)]
            if suffix in (".jsonl", ".ndjson"):
                return [json.loads(line) for line in file if line.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{path}: manifest cannot be read ({error})") from error
    raise DataError(f"{path}: a manifest is a .csv or .jsonl file")


def _typed(row: dict[str, Any]) -> Metadata:
    """CSV knows text only: numbers are read as numbers, except in columns that name files or captions."""
    typed: Metadata = {}
    for name, value in row.items():
        if name is None or value is None or value == "":
            continue
        typed[name] = value
        if name not in (*PATH_COLUMNS, *CAPTION_COLUMNS):
            with contextlib.suppress(ValueError):
                typed[name] = float(value) if "." in value or "e" in value.lower() else int(value)
    return typed


def _by_path(rows: list[Metadata], source: str, root: str, *, required: bool) -> dict[str, Metadata]:
    found: dict[str, Metadata] = {}
    for number, row in enumerate(rows, start=1):
        column = next((c for c in PATH_COLUMNS if isinstance(row, dict) and row.get(c)), None)
        if column is None:
            if not required:
                return {}
            raise DataError(f"{source}: row {number} names no file (one of {', '.join(PATH_COLUMNS)})")
        rest = {k: v for k, v in row.items() if k != column}
        found[os.path.normpath(os.path.join(root, str(row[column])))] = rest
    return found
