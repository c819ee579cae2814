"""The contract of every dataset: a stateless map from ItemKey to a clip.

An item depends on its key alone. All its randomness (crop offset, augmentation) comes from `key.seed`, so
the same key gives the same clip in any worker process, on any rank and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stable_audio.types import Metadata


class DataError(ValueError):
    """The data cannot be used at all: no files, no readable files, or contradictory settings."""


class ItemKey(NamedTuple):
    """A clip (`index`) and the seed of its random draws (non-negative 63-bit integer)."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which a key does not need
    seed: int

    def generator(self) -> torch.Generator:
        """A CPU generator for this item's random draws."""
        return torch.Generator().manual_seed(self.seed)


class Rejected(NamedTuple):
    """A clip that cannot be used, with the reason. The DataReport names it; no clip replaces it."""

    path: str
    reason: str


class Packed(NamedTuple):
    """Layout of the clips of a batch in shared rows.

    Attributes:
        lengths: frames of each clip.
        first: number of clips of the global batch on lower ranks.
        total: number of clips of the whole global batch, which differs between batches.
    """

    lengths: Sequence[int]
    first: int
    total: int


class Batch(NamedTuple):
    """audio (b c n) float32 (latents when pre-encoded) and one metadata dict per item.

    Attributes:
        packed: how the clips share rows, if they are trained that way; `audio` is padded in any case.
        items: index of each clip in its dataset; None if unknown.
    """

    audio: Tensor
    metadata: list[Metadata]
    packed: Packed | None = None
    items: Sequence[int] | None = None


class ItemFacts(NamedTuple):
    """Properties of one item of a dataset before cropping.

    Attributes:
        metadata: the item's other metadata, as far as they are known without cropping the sound.
    """

    dataset: str
    seconds: float
    sample_rate: int
    channels: int
    format: str
    captioned: bool
    metadata: Metadata = {}  # noqa: RUF012  never changed


Clip = tuple[Tensor, Metadata]
"""One item: audio (c n) float32 and its metadata."""


ItemCheck = Callable[[Metadata], "str | None"]
"""Metadata of a clip -> the reason why the model cannot be trained on it, or None."""

Preparation = Callable[[Sequence[Metadata]], list[Metadata]]
"""Metadata of the clips of a batch -> the same with what can be computed ahead of time."""


@dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """The format of clips that a model needs.

    Attributes:
        sample_rate: sample rate of the clips in Hz.
        sample_size: length of the clips in audio samples.
        audio_channels: channels of the clips.
        augment: whether to crop at random and augment (not in validation and encoding).
    """

    sample_rate: int
    sample_size: int
    audio_channels: int = 2
    augment: bool = True


@dataclass(frozen=True, kw_only=True)
class Runtime(ClipFormat):
    """Settings of datasets that come from the model and the run, never from the dataset file.

    Attributes:
        downsampling_ratio: audio samples per latent frame.
        autoencoder_hash: hash of the model's pretransform; latents of another one are refused.
    """

    downsampling_ratio: int = 1
    autoencoder_hash: str | None = None


RUNTIME_KEYS = tuple(field.name for field in fields(Runtime))
"""Constructor arguments of datasets that no dataset file has. A dataset declares those that it needs; every
other argument is a key of the dataset file."""


class ClipDataset(Dataset):
    """Base of the datasets in DATASETS.

    Constructors are keyword-only and annotated: they are the schema of the dataset file (less
    RUNTIME_KEYS; entries of lists are frozen dataclasses). They scan and check what is on disk and
    raise DataError when there is nothing to read.

    Attributes:
        drop_last: leave out batches that are not full.
        epoch_batches: batches per epoch, with items drawn with replacement; None: an epoch is one pass.
        weights: relative sampling weight per item, or None for one pass over all items per epoch.
        buckets: bucket number per item, or None; a batch holds items of one bucket only.
        row_length: frames of a row that several clips share; None where clips do not share rows.
        lengths: frames of each item, where clips share rows.
        problems: files that the scan at construction had to reject.
        ignored: suffix -> number of files beside the usable ones that nothing reads.
    """

    drop_last: bool = True
    epoch_batches: int | None = None
    weights: Sequence[float] | None = None
    buckets: Sequence[int] | None = None
    row_length: int | None = None
    lengths: Sequence[int] | None = None
    problems: Sequence[Rejected] = ()
    ignored: Mapping[str, int] = MappingProxyType({})

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        raise NotImplementedError

    def item_names(self) -> list[str]:
        """Names of the items, wherever their folders are; empty where they are made and not stored."""
        return []

    def item_sizes(self) -> Sequence[int]:
        """Sizes of the items in the order of their names, by which a file shows that was replaced under its
        name: bytes, or samples of the file. Only what is known from finding the items; empty without it."""
        return ()

    def stored_metadata(self, index: int) -> Metadata | None:
        """Metadata of one item, if they are stored apart from its sound; None otherwise.

        Raises:
            ValueError: they cannot be read.
        """
        return None

    def inspect(self, index: int, *, thorough: bool = True) -> ItemFacts | Rejected:
        """Facts about one item; `thorough` decodes all of it. This default makes the item's clip."""
        clip = self[ItemKey(index, 0)]
        if isinstance(clip, Rejected):
            return clip
        audio, metadata = clip
        rate = int(metadata.get("sample_rate", 0))
        seconds = metadata.get("seconds_total", audio.shape[-1] / rate if rate else 0.0)
        name = str(metadata.get("dataset", type(self).__name__))
        return ItemFacts(name, float(seconds), rate, audio.shape[0], "clip", has_caption(metadata), metadata)


def has_caption(metadata: Metadata) -> bool:
    """Whether the metadata hold a prompt that is neither null nor blank."""
    prompt = metadata.get("prompt")
    return bool(prompt.strip()) if isinstance(prompt, str) else prompt is not None


class Entry(Protocol):
    """The fields that every entry of `datasets` has."""

    @property
    def id(self) -> str: ...

    @property
    def weight(self) -> float: ...


def check_entries(entries: Sequence[Entry]) -> None:
    """Raise DataError if a dataset file lists no folder, two with the same id, or an invalid weight."""
    if not entries:
        raise DataError("$.datasets: empty; name at least one folder")
    ids = [entry.id for entry in entries]
    if len(set(ids)) != len(ids):
        raise DataError(f"$.datasets: ids must differ, found {ids}")
    for number, entry in enumerate(entries):
        if not _is_weight(entry.weight):
            raise DataError(
                f"$.datasets[{number}].weight: a finite number of at least 0, found {entry.weight!r}"
            )
    if not any(entry.weight for entry in entries):
        raise DataError("$.datasets: every weight is 0; give at least one folder a weight above 0")


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
