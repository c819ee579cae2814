"""Batches of audio -> latents, whatever the batch size, the order and restarts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stable_audio.data.base import Clip, ItemKey, Rejected
from stable_audio.data.latents import LatentRecord
from stable_audio.data.parts import DatasetParts, FileParts
from stable_audio.data.seeding import derive_seed
from stable_audio.data.workers import answer_signals
from stable_audio.pretransforms.base import Pretransform
from stable_audio.pretransforms.chunking import CHUNK_ABOVE
from stable_audio.types import Metadata

_LOADER_KEYS = frozenset(
    {"part", "offset", "real", "total", "total_samples", "load_time", "padding_mask", "timestamps"}
    | {"seconds_start", "sample_rate"}
)
_LARGEST_LISTED_TENSOR = 64


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
    chunk_above: int | None = CHUNK_ABOVE
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


def encoded(
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
