"""Latents on disk: safetensors shards, each complete or absent, and a manifest of their origin.

    FOLDER/manifest.json
    FOLDER/shards/*.safetensors    tensors "000000", ... (c frames); header "items": one record per tensor

Latents are stored unscaled: training applies the pretransform's `scale`.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stable_audio.audio.atomic import atomic_write
from stable_audio.audio.json_files import JsonError, may_hold_halves, parse_json_value, read_json_value
from stable_audio.characters import readable_json, refuse_name, whole
from stable_audio.data.base import DataError, Rejected
from stable_audio.data.compact import CompactList
from stable_audio.stored.safetensors_files import write_safetensors

FORMAT = "stable-audio latents"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SHARDS = "shards"


@dataclass(frozen=True)
class LatentRecord:
    """One stored clip.

    Attributes:
        part: unique name of the clip.
        frames: latent frames that hold sound.
        offset: first sample of the clip in its file.
        total: samples of the whole file.
        metadata: the clip's metadata, as far as JSON can hold them.
        stored: frames stored, padding included; 0 means as many as `frames`.
    """

    part: str
    frames: int
    offset: int
    total: int
    metadata: dict[str, Any] = field(default_factory=dict)
    stored: int = 0


class LatentStatistics:
    """Running mean and standard deviation per channel, over frames that hold sound."""

    def __init__(self) -> None:
        self.count = 0
        self.sum: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, latents: Tensor) -> None:
        """Add latents (c frames)."""
        values = latents.detach().double().cpu().flatten(1)
        self.count += values.shape[1]
        self.sum = self.sum + values.sum(1)
        self.squares = self.squares + values.square().sum(1)

    def state(self) -> dict[str, Any]:
        if not isinstance(self.sum, Tensor) or not isinstance(self.squares, Tensor):
            return {"count": 0}
        return {"count": self.count, "sum": self.sum.tolist(), "squares": self.squares.tolist()}

    def merge(self, state: Mapping[str, Any]) -> None:
        if state["count"]:
            self.count += state["count"]
            self.sum = self.sum + torch.tensor(state["sum"], dtype=torch.float64)
            self.squares = self.squares + torch.tensor(state["squares"], dtype=torch.float64)

    def summary(self) -> dict[str, Any]:
        """mean and std per channel, and over all of them."""
        if not isinstance(self.sum, Tensor) or not isinstance(self.squares, Tensor) or self.count == 0:
            return {}
        mean, power = self.sum / self.count, self.squares / self.count
        overall = float(mean.mean())
        return {
            "mean": overall,
            "std": math.sqrt(max(0.0, float(power.mean()) - overall**2)),
            "channel_mean": mean.tolist(),
            "channel_std": (power - mean.square()).clamp(min=0).sqrt().tolist(),
        }


def write_shard(
    path: str | os.PathLike[str],
    items: Iterable[tuple[LatentRecord, Tensor]],
    *,
    rejected: Iterable[Rejected] = (),
) -> None:
    """Write one shard atomically.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    statistics, tensors, records = LatentStatistics(), {}, []
    for number, (record, latents) in enumerate(items):
        tensors[f"{number:06d}"] = latents.detach().cpu().contiguous()
        records.append(asdict(record))
        statistics.add(latents[..., : record.frames])
    header = {
        "format": FORMAT,
        "items": json.dumps(records),
        "statistics": json.dumps(statistics.state()),
        "rejected": json.dumps([list(r) for r in rejected]),
    }
    write_safetensors(path, tensors, header)


@dataclass(frozen=True)
class Shard:
    """The header of a shard file."""

    path: str
    records: Sequence[LatentRecord]
    statistics: dict[str, Any]
    rejected: list[Rejected]

    def read(self, number: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Frames start..stop of one item (c frames) float32, without reading the rest."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_slice(f"{number:06d}")[..., start:stop].float()


def read_shard(path: str | os.PathLike[str]) -> Shard:
    """Read the header of a shard.

    Raises:
        DataError: the file is damaged or no shard of latents.
    """
    name = os.fspath(path)
    refuse_name(name, "latents")
    try:
        with safe_open(name, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{name}: damaged shard ({error}); delete it and encode again") from error
    if header.get("format") != FORMAT:
        raise DataError(f"{name}: not a shard of latents")
    try:
        items, statistics, rejected = (
            parse_json_value(header[key], source=name) for key in ("items", "statistics", "rejected")
        )
        if may_hold_halves(header["items"]):  # not in names, which are compared with those of the source
            items = [{**record, "metadata": whole(record["metadata"])} for record in items]
        records = CompactList(
            (LatentRecord(**record) for record in items), encode=_record_bytes, decode=_record_of
        )
        return Shard(name, records, statistics, [Rejected(*item) for item in rejected])
    except (KeyError, TypeError, JsonError) as error:
        raise DataError(f"{name}: damaged shard ({error}); delete it and encode again") from error


def _record_bytes(record: LatentRecord) -> bytes:
    return pickle.dumps(tuple(vars(record).values()))


def _record_of(content: bytes) -> LatentRecord:
    return LatentRecord(*pickle.loads(content))


def shards(folder: str | os.PathLike[str]) -> Iterator[Shard]:
    """The shards of a folder, in the order of their names."""
    for path in sorted((Path(folder) / SHARDS).glob("[!.]*.safetensors")):
        yield read_shard(path)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a folder of latents.

    Raises:
        DataError: it is missing or of another kind.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = read_json_value(path)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {MANIFEST}; the encode command writes it when it is done") from error
    except (OSError, JsonError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not the manifest of a folder of latents")
    if manifest.get("version", 0) > FORMAT_VERSION:
        raise DataError(f"{path}: written by a later version of this program")
    return manifest


def write_manifest(
    folder: str | os.PathLike[str], settings: Mapping[str, Any], names: Iterable[str] = ()
) -> dict[str, Any]:
    """Write the manifest for the shards in the folder, and return it.

    Args:
        settings: how they were encoded: sample_rate, downsampling_ratio, channels, autoencoder_hash, ...
        names: names of all parts of the source; the folder is complete when each was stored or rejected.
    """
    statistics, listing, total = LatentStatistics(), [], 0
    stored: set[str] = set()
    rejected: dict[str, str] = {}
    for shard in shards(folder):
        statistics.merge(shard.statistics)
        stored.update(record.part for record in shard.records)
        rejected.update({r.path: r.reason for r in shard.rejected})
        frames = sum(record.frames for record in shard.records)
        total += frames
        listing.append({"file": os.path.basename(shard.path), "items": len(shard.records), "frames": frames})
    rejected = {path: reason for path, reason in rejected.items() if path not in stored}
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "complete": all(name in stored or name in rejected for name in names),
        **settings,
        "items": len(stored),
        "frames": total,
        "hours": total * settings["downsampling_ratio"] / settings["sample_rate"] / 3600,
        "latents": statistics.summary(),
        "rejected": sorted([path, reason] for path, reason in rejected.items()),
        "shards": listing,
    }
    with atomic_write(Path(folder) / MANIFEST) as temporary:
        temporary.write_text(readable_json(manifest, indent=2), encoding="utf-8")
    return manifest
