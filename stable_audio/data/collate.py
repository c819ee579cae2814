"""Join the items of a batch into tensors; runs in the worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stable_audio.audio.padding import PaddingMask
from stable_audio.characters import REPLACEMENT
from stable_audio.data.base import Batch, Clip, ItemCheck, Packed, Preparation, Rejected
from stable_audio.types import Metadata


class Collated(NamedTuple):
    """Result of a worker: a batch (None if every item was rejected) and the rejected items.

    Attributes:
        places: index of each clip of the batch among the requested items.
    """

    batch: Batch | None
    rejected: list[Rejected]
    places: Sequence[int] = ()


def collate(
    items: Sequence[Clip | Rejected], check: ItemCheck | None = None, prepare: Preparation | None = None
) -> Collated:
    """Stack the clips; shorter ones are zero-padded on the right, and their `padding_mask` as well.

    Clips that `check` refuses become rejected items; `prepare` changes the metadata of the others.
    """
    items = _reject_refused(items, check)
    rejected = [item for item in items if isinstance(item, Rejected)]
    clips = [item for item in items if not isinstance(item, Rejected)]
    if not clips:
        return Collated(None, rejected)
    if prepare is not None:
        prepared = prepare([metadata for _, metadata in clips])
        clips = [(sound, metadata) for (sound, _), metadata in zip(clips, prepared, strict=True)]
    length = max(audio.shape[-1] for audio, _ in clips)
    audio = torch.stack([F.pad(a, (0, length - a.shape[-1])) for a, _ in clips])
    places = [i for i, item in enumerate(items) if not isinstance(item, Rejected)]
    return Collated(Batch(audio, [_lengthened(m, a, length) for a, m in clips]), rejected, places)


def collate_packed(
    items: Sequence[Clip | Rejected], check: ItemCheck | None = None, prepare: Preparation | None = None
) -> Collated:
    """Like `collate`, with the length of each clip; the loader adds the place in the global batch."""
    items = _reject_refused(items, check)
    collated = collate(items, prepare=prepare)
    if collated.batch is None:
        return collated
    lengths = [item[0].shape[-1] for item in items if not isinstance(item, Rejected)]
    return collated._replace(batch=collated.batch._replace(packed=Packed(lengths, 0, 0)))


def _reject_refused(items: Sequence[Clip | Rejected], check: ItemCheck | None) -> Sequence[Clip | Rejected]:
    if check is None:
        return items
    reasons = [None if isinstance(item, Rejected) else check(item[1]) for item in items]
    return [
        item if reason is None or isinstance(item, Rejected) else Rejected(name_of(item[1]), reason)
        for item, reason in zip(items, reasons, strict=True)
    ]


_NAMES = ("path", "latent_filename", "relpath", "__key__")
"""Keys of metadata that identify a clip."""


def name_of(metadata: Metadata) -> str:
    """The name of a clip in messages: its path, or another identifying value of its metadata."""
    return str(next((metadata[k] for k in _NAMES if k in metadata), "a clip without a name"))


def replaced_keys(metadata: Metadata) -> list[str]:
    """The keys with text in which U+FFFD stands for what could not be read, apart from names of files."""
    texts = ((key, value) for key, value in metadata.items() if key not in _NAMES)
    return [key for key, value in texts if REPLACEMENT in f"{key}{value if isinstance(value, str) else ''}"]


def _lengthened(metadata: Metadata, audio: Tensor, length: int) -> Metadata:
    padding = length - audio.shape[-1]
    if padding == 0:
        return metadata
    mask = metadata.get("padding_mask")
    if isinstance(mask, Tensor):  # from a custom module, perhaps with gaps
        return {**metadata, "padding_mask": F.pad(mask, (0, padding))}
    mask = PaddingMask(audio.shape[-1], audio.shape[-1]) if mask is None else mask
    return {**metadata, "padding_mask": mask.lengthened(padding)}
