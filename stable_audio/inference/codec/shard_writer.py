"""Latents are collected and written to disk in files of many clips."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from stable_audio.data.base import Rejected
from stable_audio.data.latents import SHARDS, LatentRecord, write_shard
from stable_audio.data.report import printable
from stable_audio.inference.codec.latents import EncodeOptions

_LOG = logging.getLogger(__name__)

_LONGEST_UNSAVED_SECONDS = 120.0


@dataclass
class _Unsaved:
    """Items of the next file.

    Attributes:
        items: encoded clips.
        rejected: files that cannot be used.
        target: path of the file, once writing has begun.
    """

    items: list[tuple[LatentRecord, Tensor]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    target: Path | None = None


class ShardWriter:
    """Collects items and writes them to a file whenever there are enough.

    A signal may end `flush` at any point, and `flush` is called once more on the way out: the second call
    writes the same items to the same file, and one assignment forgets them all.
    """

    def __init__(self, folder: Path, options: EncodeOptions, *, logged: set[Rejected]) -> None:
        self.folder, self.options, self.logged = folder / SHARDS, options, logged
        self.unsaved = _Unsaved()
        self.last_write = time.monotonic()
        for leftover in self.folder.glob(f".{options.rank:03d}-*.partial.safetensors"):
            leftover.unlink()

    def add(self, name: str, result: tuple[LatentRecord, Tensor] | Rejected) -> None:
        if isinstance(result, Rejected):
            _LOG.warning("left out: %s: %s", printable(result.path), printable(result.reason))
            if Rejected(name, result.reason) not in self.logged:
                self.unsaved.rejected.append(Rejected(name, result.reason))
            return
        self.unsaved.items.append(result)
        late = time.monotonic() - self.last_write > _LONGEST_UNSAVED_SECONDS
        if late or len(self.unsaved.items) >= self.options.items_per_shard:
            self.flush()

    def flush(self) -> None:
        unsaved = self.unsaved
        if not unsaved.items and not unsaved.rejected:
            return
        unsaved.target = unsaved.target or self._next()
        write_shard(unsaved.target, unsaved.items, rejected=unsaved.rejected)
        self.unsaved = _Unsaved()
        self.last_write = time.monotonic()

    def _next(self) -> Path:
        prefix = f"{self.options.rank:03d}-"
        numbers = [int(p.stem[len(prefix) :]) for p in self.folder.glob(f"{prefix}*.safetensors")]
        return self.folder / f"{prefix}{max(numbers, default=-1) + 1:06d}.safetensors"
