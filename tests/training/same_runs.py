"""What differs between two runs, to the bit: nothing, where one was stopped at any moment and went on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stable_audio.checkpoints import read_checkpoint
from stable_audio.checkpoints.shards import read_shards
from stable_audio.checkpoints.torch_file import load_torch_file
from stable_audio.stored.shards_folder import is_shards

_EPOCHS = ("/epoch", "/loops/fit_loop/epoch_progress/")
"""Lightning's counts of how often it was started; the data has its own epoch and position."""

_SPEED = "speed/"


def run_differences(one: Path, other: Path) -> list[str]:
    """Differences between the folders of two runs, one sentence each.

    Compared are all checkpoints that both should have (weights, average, optimizers, schedules, position in
    the data, streams of random numbers, and everything else in them but Lightning's count of its starts),
    the inference files, all rows of metrics.csv but for speeds, and the bytes of demos.
    """
    found = [
        *_names(one, other, "*.ckpt"),
        *_names(one, other, "*.safetensors"),
        *_names(one, other, "checkpoints/*"),
        *_names(one, other, "demos/**/*"),
        *row_differences(one / "metrics.csv", other / "metrics.csv"),
    ]
    for path in _both(one, other, "*.ckpt", "checkpoints/*.ckpt", "checkpoints/*.shards"):
        found += [f"{path}: {text}" for text in checkpoint_differences(one / path, other / path)]
    for path in _both(one, other, "*.safetensors", "checkpoints/*.safetensors"):
        tensors = [read_checkpoint(folder / path).tensors for folder in (one, other)]
        found += [f"{path}: {text}" for text in _differences(*tensors)]
    for path in _both(one, other, "demos/**/*"):
        if (one / path).is_file() and (one / path).read_bytes() != (other / path).read_bytes():
            found.append(f"{path}: other bytes")
    return found


def checkpoint_differences(one: Path, other: Path) -> list[str]:
    """Differences between two training checkpoints, files or folders of parts."""
    contents = [read_shards(path) if is_shards(path) else load_torch_file(path) for path in (one, other)]
    return _differences(*contents)


def row_differences(one: Path, other: Path) -> list[str]:
    """Differences between two files of metrics, speeds left out."""
    rows = []
    for path in (one, other):
        with open(path, newline="") as file:
            rows.append([_values(row) for row in csv.DictReader(file)])
    steps = [[row["step"] for row in table] for table in rows]
    if steps[0] != steps[1]:
        return [f"metrics.csv: rows of the steps {steps[0]} and {steps[1]}"]
    return [
        f"metrics.csv: step {a['step']}, {key}: '{a.get(key, '')}' and '{b.get(key, '')}'"
        for a, b in zip(*rows, strict=True)
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _values(row: Mapping[str, str]) -> dict[str, str]:
    """What a row says; columns that another row has brought are empty."""
    return {key: value for key, value in row.items() if value and not key.startswith(_SPEED)}


def _names(one: Path, other: Path, pattern: str) -> list[str]:
    names = [{path.relative_to(folder) for path in folder.glob(pattern)} for folder in (one, other)]
    return [
        f"{path}: in {folder} only"
        for folder, only in ((one, names[0] - names[1]), (other, names[1] - names[0]))
        for path in sorted(only)
    ]


def _both(one: Path, other: Path, *patterns: str) -> list[Path]:
    """Paths, in the folder, of what both runs have."""
    paths = (path.relative_to(one) for pattern in patterns for path in sorted(one.glob(pattern)))
    return [path for path in paths if (other / path).exists()]


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    a, b = (dict(_leaves(content, "")) for content in (one, other))
    absent = [f"{key} is in one of them only" for key in sorted(a.keys() ^ b.keys())]
    return absent + [f"{key} differs" for key in a if key in b and not _same(a[key], b[key])]


def _leaves(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """(path, tensor or plain value) of nested content."""
    items: Any = None
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    if items is None:
        if not at.startswith(_EPOCHS):
            yield at, value
        return
    for key, item in items:
        yield from _leaves(item, f"{at}/{key}")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
