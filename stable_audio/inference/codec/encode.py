"""Audio -> latents on disk. A killed run continues where it stopped; finished items are not encoded again."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stable_audio.audio.atomic import atomic_write, remove_leftovers
from stable_audio.data.base import Clip, DataError, ItemKey, Rejected
from stable_audio.data.latents import (
    MANIFEST,
    SHARDS,
    LatentRecord,
    read_manifest,
    shards,
    write_manifest,
    write_shard,
)
from stable_audio.data.parts import DatasetParts, FileParts, Part
from stable_audio.data.report import printable
from stable_audio.data.seeding import derive_seed
from stable_audio.data.workers import answer_signals
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.fingerprint import pretransform_hash
from stable_audio.types import Metadata

_LOG = logging.getLogger(__name__)

_LOADER_KEYS = frozenset(
    {"part", "offset", "real", "total", "total_samples", "load_time", "padding_mask", "timestamps"}
    | {"seconds_start", "sample_rate"}
)
_SILENCE_FRAMES = 64
_LARGEST_LISTED_TENSOR = 64
_LONGEST_UNSAVED_SECONDS = 120.0


@dataclass(frozen=True)
class EncodeOptions:
    """Options of encoding.

    Attributes:
        batch_size: clips of equal length that are encoded together.
        num_workers: processes that read audio.
        items_per_shard: clips per file; a smaller file is written after two minutes, so that a killed run
            loses no more than that.
        chunk_above: clips longer than this many latent frames are encoded in overlapping chunks; None: never.
        half: store float16 instead of float32.
        seed: seed of the noise of variational autoencoders; each item's noise depends on it and on the item's
            name.
        rank: number of this process, which decides its share of the items.
        world_size: number of processes.

    Raises:
        ValueError: a number is out of range.
    """

    batch_size: int = 1
    num_workers: int = 0
    items_per_shard: int = 256
    chunk_above: int | None = 2048
    half: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0), ("items_per_shard", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")
        if self.chunk_above is not None and self.chunk_above < 1:
            raise ValueError(f"chunk_above must be at least 1, found {self.chunk_above}")


def encode_to_folder(
    pretransform: Pretransform,
    source: FileParts | DatasetParts,
    folder: str | os.PathLike[str],
    *,
    sample_rate: int,
    options: EncodeOptions,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Encode the items of `source` that `folder` does not hold yet.

    Args:
        settings: further entries for the manifest (origin of the weights, crop length, ...).
        progress: called with (finished items, all items) of this process.

    Returns:
        the manifest.

    Raises:
        DataError: the folder holds latents made with other settings.
    """
    folder = Path(folder)
    described = _settings(pretransform, sample_rate, options, settings or {})
    _check_settings(folder, described)
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / SHARDS):
        remove_leftovers(place)
    names = [part.name for part in source.parts]
    if options.rank == 0:
        write_manifest(folder, described, names)
        _write_silence(pretransform, folder)
    there = list(shards(folder))
    stored_names = _stored_names(
        folder, [record for shard in there for record in shard.records], source.parts
    )
    share = range(options.rank, len(names), options.world_size)
    pending = [i for i in share if names[i] not in stored_names]
    writer = _ShardWriter(folder, options, logged={r for shard in there for r in shard.rejected})
    for problem in source.problems if options.rank == 0 else []:
        writer.add(problem.path, problem)
    try:
        for count, (index, result) in enumerate(_encoded(pretransform, source, pending, options), start=1):
            writer.add(names[index], result)
            if progress is not None:
                progress(len(share) - len(pending) + count, len(share))
    finally:
        writer.flush()  # also after an error or a signal, so that no finished item is lost
    return _final_manifest(folder, described, names)


def _final_manifest(folder: Path, settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Write the manifest of all shards, again if another process has added a shard meanwhile."""
    while True:
        manifest = write_manifest(folder, settings, names)
        there = {path.name for path in (folder / SHARDS).glob("[!.]*.safetensors")}
        if there == {shard["file"] for shard in manifest["shards"]}:
            return manifest


def _settings(
    pretransform: Pretransform, sample_rate: int, options: EncodeOptions, more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "autoencoder_hash": pretransform_hash(pretransform),
        "sample_rate": sample_rate,
        "downsampling_ratio": pretransform.downsampling_ratio,
        "channels": pretransform.encoded_channels,
        "audio_channels": pretransform.io_channels,
        "dtype": "float16" if options.half else "float32",
        "chunk_above": options.chunk_above,
        "seed": options.seed,
        **more,
    }


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    # The hash identifies the weights; their file may have moved.
    compared = {k: json.loads(json.dumps(v)) for k, v in settings.items() if k != "autoencoder"}
    differing = [k for k, v in compared.items() if v != manifest.get(k)]
    if differing:
        changes = ", ".join(f"{k} was {manifest.get(k)!r}, is {settings[k]!r}" for k in differing)
        raise DataError(f"{folder}: holds latents made with other settings ({changes}); use another folder")


def _stored_names(folder: Path, records: Sequence[LatentRecord], parts: Sequence[Part]) -> set[str]:
    """Names of the clips in `folder`.

    Raises:
        DataError: a clip was encoded from a file whose length has changed since.
    """
    totals = {part.name: part.total for part in parts}
    outdated = [r for r in records if totals.get(r.part) and totals[r.part] != r.total]
    if outdated:
        first = outdated[0]
        raise DataError(
            f"{folder}: {len(outdated)} clips were encoded from files that have changed since "
            f"({first.part} had {first.total} samples, and now has {totals[first.part]}); use another folder"
        )
    foreign = [r.part for r in records if r.part not in totals]
    if foreign:
        _LOG.warning("%s: %d clips there are not in the source (%s, ...)", folder, len(foreign), foreign[0])
    return {record.part for record in records}


def _encoded(
    pretransform: Pretransform,
    source: FileParts | DatasetParts,
    pending: Sequence[int],
    options: EncodeOptions,
) -> Iterator[tuple[int, tuple[LatentRecord, Tensor] | Rejected]]:
    """(index, result) for every pending item, in order."""
    loader = DataLoader(
        source,
        batch_sampler=_batches(source, pending, options.batch_size),  # type: ignore[arg-type]
        collate_fn=_as_list,
        num_workers=options.num_workers,
        worker_init_fn=answer_signals,
        generator=torch.Generator(),
    )
    batches = _batches(source, pending, options.batch_size)
    for keys, items in zip(batches, loader):
        clips = [(key.index, f) for key, f in zip(keys, items) if not isinstance(f, Rejected)]
        results: dict[int, tuple[LatentRecord, Tensor] | Rejected] = {
            key.index: f for key, f in zip(keys, items) if isinstance(f, Rejected)
        }
        for _, group in groupby(clips, key=lambda c: c[1][0].shape):
            members = list(group)
            encoded = _encode_batch(pretransform, [clip for _, clip in members], options)
            results.update({index: item for (index, _), item in zip(members, encoded)})
        yield from ((key.index, results[key.index]) for key in keys)


def _batches(source: FileParts | DatasetParts, pending: Sequence[int], size: int) -> list[list[ItemKey]]:
    """Keys of pending items in batches of consecutive items of equal length."""
    batches: list[list[ItemKey]] = []
    for _, group in groupby(pending, key=lambda i: source.parts[i].length):
        keys = [ItemKey(i, 0) for i in group]
        batches += [keys[i : i + size] for i in range(0, len(keys), size)]
    return batches


def _as_list(items: list[Clip | Rejected]) -> list[Clip | Rejected]:
    return items


@torch.inference_mode()
def _encode_batch(
    pretransform: Pretransform, clips: Sequence[Clip], options: EncodeOptions
) -> list[tuple[LatentRecord, Tensor]]:
    step = 1 if getattr(pretransform, "iterate_batch", False) else len(clips)
    results = []
    for at in range(0, len(clips), step):
        some = clips[at : at + step]
        audio = torch.stack([a for a, _ in some]).to(pretransform.device)
        noise = _item_noise([m["part"] for _, m in some], options.seed)
        latents = unscaled_latents(pretransform, audio, noise=noise, chunk_above=options.chunk_above)
        latents = latents.to("cpu", torch.float16 if options.half else torch.float32)
        results += [
            (_record(m, pretransform.downsampling_ratio, z.shape[-1]), z.clone())
            for (_, m), z in zip(some, latents)
        ]
    return results


def unscaled_latents(
    pretransform: Pretransform,
    audio: Tensor,
    *,
    noise: Callable[[Tensor], Tensor] | None,
    chunk_above: int | None,
) -> Tensor:
    """Encode audio (b c n) into latents (b c n) before division by `scale`.

    Args:
        noise: source of a variational autoencoder's draws.
        chunk_above: number of frames above which audio is encoded in overlapping chunks; None: never.
    """
    frames = audio.shape[-1] // pretransform.downsampling_ratio
    chunked = chunk_above is not None and frames > chunk_above
    encode: Callable[..., Tensor] = pretransform.encode_chunked if chunked else pretransform.encode
    return encode(audio, noise=noise) * getattr(pretransform, "scale", 1.0)


def _item_noise(names: Sequence[str], seed: int) -> Callable[[Tensor], Tensor]:
    """Noise for each item from a generator of its own, so that batches and restarts do not change it."""
    generators = [torch.Generator().manual_seed(derive_seed("encode", seed, name)) for name in names]

    def noise(like: Tensor) -> Tensor:
        rows = [torch.randn(like.shape[1:], generator=g) for g in generators]
        return torch.stack(rows).to(like)

    return noise


def _record(metadata: Metadata, ratio: int, length: int) -> LatentRecord:
    frames = min(length, -(-metadata["real"] // ratio))
    values = {k: _plain(v) for k, v in metadata.items() if k not in _LOADER_KEYS}
    values = {k: v for k, v in values.items() if v is not _DROPPED}
    return LatentRecord(metadata["part"], frames, metadata["offset"], metadata["total"], values, length)


_DROPPED = object()


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; _DROPPED for large tensors and objects."""
    if isinstance(value, (Tensor, np.ndarray)):
        flat = torch.as_tensor(value)
        return flat.tolist() if flat.numel() <= _LARGEST_LISTED_TENSOR else _DROPPED
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return _DROPPED
    return value


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


class _ShardWriter:
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


@torch.inference_mode()
def _write_silence(pretransform: Pretransform, folder: Path) -> None:
    """Write the latents of silence, without the autoencoder's noise, as padding for shorter clips."""
    length = _SILENCE_FRAMES * pretransform.downsampling_ratio
    audio = torch.zeros(1, pretransform.io_channels, length, device=pretransform.device)
    latents = unscaled_latents(pretransform, audio, noise=torch.zeros_like, chunk_above=None)
    with atomic_write(folder / "silence.npy") as temporary:
        np.save(temporary, latents[0].float().cpu().numpy())
