"""One interface to folders of latents: those of the encode command and those of stable-audio-tools."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stable_audio.audio.json_files import parse_json_object
from stable_audio.data.base import DataError, Rejected
from stable_audio.data.captions import with_prompt
from stable_audio.data.compact import compact_pairs, compact_texts
from stable_audio.data.latents import MANIFEST, LatentRecord, read_manifest, shards
from stable_audio.data.scan import filter_keywords, find_files
from stable_audio.types import Metadata
from stable_audio.wording import plural

_LOG = logging.getLogger(__name__)


class LatentSource(Protocol):
    """Clips of latents in one folder.

    Attributes:
        manifest: the settings with which the latents were encoded; None if they were not stored.
        silence: one frame of encoded silence (c 1) for padding, or None.
    """

    manifest: dict[str, Any] | None
    silence: Tensor | None
    problems: Sequence[Rejected]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of the clip for messages and file-name filters."""
        ...

    def size(self, index: int) -> int:
        """What is known of the size of the clip without a look at it: samples or bytes of its file."""
        ...

    def describe(self, index: int) -> tuple[int, int, Metadata]:
        """(frames stored, frames that hold sound, metadata with seconds_start and seconds_total).

        Raises:
            ValueError: the clip cannot be used.
        """
        ...

    def samples(self, index: int) -> int | None:
        """Number of audio samples of the clip; None if it is not known exactly."""
        ...

    def read(self, index: int, start: int, stop: int) -> Tensor:
        """Frames start..stop (c n) float32. Raises ValueError when they cannot be read."""
        ...


class ShardFolder:
    """A folder that the encode command wrote."""

    def __init__(self, folder: str, *, keywords: Sequence[str] | None = None) -> None:
        self.manifest: dict[str, Any] | None = read_manifest(folder)
        self.silence = _silence(folder, batched=False)
        if not self.manifest.get("complete", True):
            _LOG.warning(
                "%s: not complete, %s so far; start the encode command again to go on",
                folder,
                plural(self.manifest["items"], "clip"),
            )
        self.problems: Sequence[Rejected] = [Rejected(*item) for item in self.manifest["rejected"]]
        self.shards = list(shards(folder))
        found = [(s, n) for s, shard in enumerate(self.shards) for n in range(len(shard.records))]
        if keywords:
            names = [record.part for shard in self.shards for record in shard.records]
            parts = set(filter_keywords(names, keywords))
            found = [item for item, name in zip(found, names) if name in parts]
        self.items = compact_pairs(found)
        if not self.items:
            raise DataError(f"{folder}: holds no latents (keywords {list(keywords or ())})")

    def __len__(self) -> int:
        return len(self.items)

    def _record(self, index: int) -> LatentRecord:
        shard, number = self.items[index]
        return self.shards[shard].records[number]

    def name(self, index: int) -> str:
        return self._record(index).part

    def size(self, index: int) -> int:
        return self._record(index).total

    def describe(self, index: int) -> tuple[int, int, Metadata]:
        assert self.manifest is not None
        record, rate = self._record(index), int(self.manifest["sample_rate"])
        metadata = {
            "seconds_total": math.ceil(record.total / rate),
            **record.metadata,
            "start_seconds": record.offset / rate,
            "file_seconds": record.total / rate,
        }
        return record.stored or record.frames, record.frames, metadata

    def samples(self, index: int) -> int | None:
        record = self._record(index)
        return record.total - record.offset

    def read(self, index: int, start: int, stop: int) -> Tensor:
        shard, number = self.items[index]
        return self.shards[shard].read(number, start, stop)


class NpyFolder:
    """Folders of stable-audio-tools: X.npy (c n) with X.json, and optionally silence.npy."""

    def __init__(
        self,
        folder: str,
        *,
        extension: str = "npy",
        filelist_path: str | None = None,
        keywords: Sequence[str] | None = None,
    ) -> None:
        self.manifest: dict[str, Any] | None = None
        self.silence = _silence(folder, batched=True)
        suffix = "." + extension.lstrip(".")
        scan = find_files(folder, extensions=(suffix,), filelist_path=filelist_path, keywords=keywords)
        self.problems: Sequence[Rejected] = scan.problems
        scan.keep(lambda path: os.path.basename(path) != "silence.npy")
        self.paths, self.sizes = compact_texts(scan.paths), scan.sizes
        if not self.paths:
            raise DataError(f"{folder}: holds no {suffix} files of latents")

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def size(self, index: int) -> int:
        return self.sizes[index]

    def describe(self, index: int) -> tuple[int, int, Metadata]:
        path = self.paths[index]
        beside = os.path.splitext(path)[0] + ".json"
        try:
            content = Path(beside).read_bytes()
            metadata = parse_json_object(content, source=os.path.basename(beside), repair=True)
        except FileNotFoundError as error:
            raise ValueError(f"{os.path.basename(beside)} is missing beside it") from error
        except OSError as error:
            raise ValueError(f"{os.path.basename(beside)} cannot be read ({error})") from error
        return describe_json(metadata, self._array(index).shape[-1])

    def samples(self, index: int) -> int | None:
        return None

    def read(self, index: int, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.array(self._array(index)[..., start:stop], dtype=np.float32))

    def _array(self, index: int) -> np.ndarray:
        try:
            array = np.load(self.paths[index], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"not an array that can be read ({error})") from error
        if array.ndim < 2:
            raise ValueError(f"latents have shape (channels, frames), found {array.shape}")
        return array


def describe_json(metadata: Metadata, stored: int) -> tuple[int, int, Metadata]:
    """The `describe` of a clip with metadata of stable-audio-tools.

    Args:
        metadata: content of the clip's JSON file.
        stored: number of frames in the file.

    Raises:
        ValueError: the padding mask is zero everywhere, or a time is no number.
    """
    try:
        mask = torch.as_tensor(metadata.get("padding_mask", [1] * stored)).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"'padding_mask' must be a list of numbers ({error})") from error
    valid = mask.nonzero()
    if valid.numel() == 0:
        raise ValueError("its padding mask is zero everywhere")
    info = {k: v for k, v in with_prompt(metadata).items() if k != "padding_mask"}
    info["start_seconds"] = seconds_in(metadata, "seconds_start", 0.0)
    if "timestamps" in info:
        info["timestamps"] = _timestamps(info["timestamps"])
    return stored, min(stored, int(valid[-1]) + 1), info


def seconds_in(metadata: Metadata, key: str, default: float) -> float:
    """Read a time from metadata. Raises ValueError, naming the key, if it is no number."""
    value = metadata.get(key, default)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"'{key}' must be seconds, a number of at least 0, found {value!r:.40}")
    return seconds


def _timestamps(value: Any) -> tuple[float, float]:
    try:
        first, last = (float(v) for v in value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"'timestamps' must be two numbers, found {value!r:.40}") from error
    return first, last


def open_folder(
    folder: str,
    *,
    extension: str = "npy",
    filelist_path: str | None = None,
    keywords: Sequence[str] | None = None,
) -> LatentSource:
    """Open a folder of latents; a manifest marks the format of the encode command.

    Raises:
        DataError: the folder holds nothing usable.
    """
    if os.path.isfile(os.path.join(folder, MANIFEST)):
        return ShardFolder(folder, keywords=keywords)
    return NpyFolder(folder, extension=extension, filelist_path=filelist_path, keywords=keywords)


def _silence(folder: str, *, batched: bool) -> Tensor | None:
    """The middle frame of encoded silence, away from the edges; None if the folder has none.

    Args:
        batched: whether three axes are a batch of one (1 c n), as stable-audio-tools writes them; otherwise
            they are picture-shaped latents (c rows n).
    """
    path = os.path.join(folder, "silence.npy")
    if not os.path.isfile(path):
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    frames = torch.from_numpy(np.array(array, dtype=np.float32))
    if batched and frames.ndim == 3 and frames.shape[0] == 1:
        frames = frames[0]
    middle = frames.shape[-1] // 2
    return frames[..., middle : middle + 1]
