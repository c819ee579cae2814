"""Checkpoints in parts: every process writes what it has, and any number of processes reads what it needs.

A folder with files of torch.distributed.checkpoint for the tensors, one for everything else, and the list of
all files with their checksums, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from stable_audio.checkpoints.checksums import file_checksum
from stable_audio.checkpoints.errors import CheckpointError
from stable_audio.stored.shards_folder import (
    COMPLETE,
    REST,
    SUFFIX,
    check_complete,
    damage,
)

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

EARLIER = f".earlier.partial{SUFFIX}"
"""End of the name of a folder that is being replaced by another one of the same step."""

AT_ONCE = 1 << 28
"""Bytes of tensors that are read at once where all of them are looked at in turn."""

_MARK = "tensor of the shards"

Like = Callable[[str, torch.Size, torch.dtype], "Tensor | None"]
"""(key, shape, type) -> a tensor with the layout to read into, or None for a plain one."""


class Shards(NamedTuple):
    """Nested content, taken apart.

    Attributes:
        rest: the same nesting, with marks in the places of tensors.
        tensors: by key, the names and numbers on the way to them, joined by "/".
    """

    rest: dict[str, Any]
    tensors: dict[str, Tensor]


def stored_keys(folder: Path) -> set[str]:
    """The keys of the tensors in a folder.

    Raises:
        CheckpointError: it has no list of them.
    """
    check_shards(folder, checksums=False)
    return set(_stored(folder))


def taken_apart(content: Mapping[str, Any]) -> Shards:
    """Take the tensors out of nested dictionaries, lists and tuples."""
    tensors: dict[str, Tensor] = {}

    def part(value: Any, at: str) -> Any:
        if isinstance(value, Tensor):
            tensors[at] = value.detach()
            return {_MARK: at}
        if isinstance(value, Mapping):
            return {key: part(item, f"{at}/{key}" if at else str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [part(item, f"{at}/{index}") for index, item in enumerate(value)]
        return value

    return Shards(part(content, ""), tensors)


def read_shards(
    folder: Path,
    *,
    wanted: Callable[[str], bool] = lambda key: True,
    like: Like = lambda key, size, dtype: None,
    verify: bool = True,
) -> dict[str, Any]:
    """The content of a folder. It needs no other process, and every process may read other tensors.

    Args:
        wanted: which tensors are read, by key; the others are on the device "meta".
        like: the layout of tensors; plain ones lie in host memory.
        verify: compare all files with their checksums; False where that has been done.

    Raises:
        CheckpointError: files are missing, damaged, or not those of such a folder; the first is named.
    """
    check_shards(folder, checksums=verify)
    with _told_by_name(folder):
        rest, tensors = _read_rest(folder), _read_tensors(folder, wanted, like)
    return put_together(rest, tensors)


def tensors_in_turn(
    folder: Path, *, wanted: Callable[[str], bool], most_bytes: int = AT_ONCE
) -> Iterator[dict[str, Tensor]]:
    """The tensors of a folder by key, a few at a time, so that all of them need no room in memory.

    Args:
        wanted: which tensors are read, by key.
        most_bytes: of a group of tensors; a larger tensor comes alone.

    Raises:
        CheckpointError: they cannot be read.
    """
    with _told_by_name(folder):
        sizes = {
            key: facts.size.numel() * facts.properties.dtype.itemsize
            for key, facts in _stored(folder).items()
            if wanted(key)
        }
    group: set[str] = set()
    total = 0
    for key, size in sizes.items():
        if group and total + size > most_bytes:
            yield _read_group(folder, group)
            group, total = set(), 0
        group.add(key)
        total += size
    if group:
        yield _read_group(folder, group)


def _read_group(folder: Path, keys: Collection[str]) -> dict[str, Tensor]:
    with _told_by_name(folder):
        tensors = _read_tensors(folder, lambda key: key in keys, lambda key, size, dtype: None)
    return {key: tensors[key] for key in tensors if key in keys}


@contextmanager
def _told_by_name(folder: Path) -> Iterator[None]:
    """What reading a damaged folder raises becomes an error that names it."""
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # what the bytes of a damaged pickle raise is unbounded
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{folder}: cannot be read ({text}); take another checkpoint") from error


def put_together(rest: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `taken_apart`."""
    if isinstance(rest, dict):
        if _MARK in rest:
            return tensors[rest[_MARK]]
        return {key: put_together(item, tensors) for key, item in rest.items()}
    return [put_together(item, tensors) for item in rest] if isinstance(rest, list) else rest


def check_shards(folder: Path, *, checksums: bool = True) -> None:
    """Refuse a folder that is not complete.

    Raises:
        CheckpointError: with the first file that is missing or damaged.
    """
    try:
        listed = check_complete(folder)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    for name, (_, checksum) in listed.items():
        if checksums and file_checksum(folder / name) != checksum:
            raise CheckpointError(damage(folder / name))


def write_list(folder: Path, files: Mapping[str, tuple[int, str]]) -> None:
    """Write the list of files (name -> size and checksum), which makes a folder complete."""
    (folder / COMPLETE).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def _read_rest(folder: Path) -> Any:
    # Its checksum is in the list.
    return torch.load(folder / REST, map_location="cpu", weights_only=True)


def _stored(folder: Path) -> dict[str, TensorStorageMetadata]:
    from torch.distributed.checkpoint import FileSystemReader

    return FileSystemReader(str(folder)).read_metadata().state_dict_metadata  # type: ignore[return-value]


def _read_tensors(folder: Path, wanted: Callable[[str], bool], like: Like) -> dict[str, Tensor]:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    reader, stored = FileSystemReader(str(folder)), _stored(folder)
    tensors: dict[str, Tensor] = {}
    for key, facts in stored.items():
        dtype = facts.properties.dtype
        if wanted(key):
            layout = like(key, facts.size, dtype)
            tensors[key] = torch.empty(facts.size, dtype=dtype) if layout is None else layout
        else:
            tensors[key] = torch.empty(facts.size, dtype=dtype, device="meta")
    targets: dict[str, Any] = {key: tensor for key, tensor in tensors.items() if tensor.device.type != "meta"}
    _load_state_dict(targets, storage_reader=reader, no_dist=True)
    return tensors
