"""Read captions and other metadata stored beside the sound: `.txt`, `.json`, and a CSV or JSONL manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_audio.audio.json_files import JsonError, parse_json_object
from stable_audio.data.base import DataError, Rejected
from stable_audio.data.compact import CompactMapping
from stable_audio.data.manifests import CAPTION_COLUMNS, read_manifest
from stable_audio.data.scan import why_no_file
from stable_audio.types import Metadata

MANIFEST_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
RESERVED = frozenset({"path", "relpath", "timestamps", "padding_mask", "sample_rate", "load_time", "dataset"})
"""Keys that the loader fills itself; side-car files cannot change them."""


class CaptionError(ValueError):
    """A side-car file cannot be used."""


class Captions:
    """Metadata of the files of one folder; of manifest row, `x.txt` and `x.json`, later ones override.

    Null and blank values do not replace values from earlier sources.

    Args:
        root: folder that manifest paths are relative to.
        paths: the sound files of the folder.
        manifest: a .csv, .tsv, .jsonl or .json file; None: `metadata.jsonl`, `.csv` or `.tsv` in `root`, if
            it exists.
        sidecars: whether `.txt` and `.json` files beside the sound are read.

    Attributes:
        problems: faults of the manifest, such as rows without a file.

    Raises:
        DataError: the manifest cannot be read.
    """

    def __init__(
        self, root: str, paths: Sequence[str] = (), *, manifest: str | None = None, sidecars: bool = True
    ) -> None:
        self.root = root
        self.sidecars = sidecars
        rows: dict[str, Metadata] = {}
        self.problems: list[Rejected] = []
        source = manifest if manifest is not None else _default_manifest(root)
        if source is not None:
            try:
                rows, self.problems = read_manifest(source, root, paths, required=manifest is not None)
            except DataError as error:
                if manifest is not None:
                    raise
                self.problems = [Rejected(source, f"not used: {str(error).removeprefix(f'{source}: ')}")]
        self.rows = CompactMapping(rows)

    def __call__(self, path: str) -> Metadata:
        """Metadata of the sound file `path`; empty if no source describes it.

        Raises:
            CaptionError: a side-car file is not readable text or not a JSON object.
        """
        sources: list[Metadata] = [self.rows.get(os.path.normpath(path), {})]
        if self.sidecars:
            base = os.path.splitext(path)[0]
            text = _read_text(base + ".txt")
            sources += [{} if text is None else {"prompt": text.strip()}, _read_json(base + ".json")]
        merged: Metadata = {}
        for source in sources:
            entries = with_prompt(source).items()
            merged.update(
                (k, v) for k, v in entries if k not in RESERVED and (k not in merged or not _blank(v))
            )
        return merged


def with_prompt(metadata: Metadata) -> Metadata:
    """Use `text` or `caption` as the `prompt`, if that is absent, null or blank.

    A prompt that stays null or blank is removed; lists of one text are unwrapped.
    """
    values = [_unwrapped(metadata[name]) for name in CAPTION_COLUMNS if name in metadata]
    prompt = _unwrapped(metadata.get("prompt"))
    if _blank(prompt):
        prompt = next((v for v in values if isinstance(v, str) and not _blank(v)), None)
    remaining = {k: v for k, v in metadata.items() if k != "prompt"}
    return remaining if prompt is None else {"prompt": prompt, **remaining}


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
        return parse_json_object(text, source=os.path.basename(path), repair=True)
    except JsonError as error:
        raise CaptionError(str(error)) from error


def _default_manifest(root: str) -> str | None:
    candidates = [os.path.join(root, name) for name in MANIFEST_NAMES]
    return next((c for c in candidates if os.path.isfile(c)), None)
