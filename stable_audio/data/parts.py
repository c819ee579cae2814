"""Every part of every file once, in order: what is encoded to latents. No augmentation, no chance."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import torch

from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import read_info
from stable_audio.audio.resample import resampled_length
from stable_audio.data.audio_dir import AudioDirDataset
from stable_audio.data.base import Clip, ClipDataset, ItemKey, Rejected
from stable_audio.data.crop import Crop


class Part(NamedTuple):
    """A piece of a dataset. name: unique and stable over runs; item: its number in the
    dataset; offset and length in samples."""

    name: str
    item: int
    offset: int
    length: int


class FileParts(ClipDataset):
    """The files of an `audio_dir` dataset, whole or cut into crops of equal length.

    Args:
        dataset: built without augmentation.
        crop: samples per part; None: whole files. The last part of a file is padded with silence.
        multiple: lengths of whole files are rounded up to a multiple of it.

    Each item's metadata has `part` (its name), `offset`, `real` (samples that are not padding) and
    `total` (samples of the file) besides the usual keys.
    """

    def __init__(self, dataset: AudioDirDataset, *, crop: int | None = None, multiple: int = 1) -> None:
        if crop is not None and crop % multiple:
            raise ValueError(f"crops must be a multiple of {multiple} samples, found {crop}")
        self.dataset = dataset
        self.parts: list[Part] = []
        self.problems: list[Rejected] = list(dataset.problems)
        for index in range(len(dataset)):
            self._add(index, crop, multiple)

    def _add(self, index: int, crop: int | None, multiple: int) -> None:
        entry = self.dataset.entries[self.dataset.entry_of[index]]
        path = self.dataset.paths[index]
        name = f"{entry.id}/{os.path.relpath(path, entry.path)}"
        try:
            info = read_info(path)
            frames = self.dataset.maker.frames(info)
        except AudioError as error:
            self.problems.append(Rejected(path, error.reason))
            return
        total = resampled_length(frames, info.sample_rate, self.dataset.sample_rate)
        if crop is None:
            self.parts.append(Part(name, index, 0, -(-total // multiple) * multiple))
            return
        # Offsets must lie where both rates have a sample.
        step = self.dataset.sample_rate // math.gcd(self.dataset.sample_rate, info.sample_rate)
        starts = range(0, total, crop) if crop % step == 0 else _aligned(total, crop, step)
        self.parts += [Part(f"{name}@{start}", index, start, crop) for start in starts]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        part = self.parts[key.index]

        def choose(frames: int, source_rate: int) -> Crop:
            total = resampled_length(frames, source_rate, self.dataset.sample_rate)
            return Crop(part.offset, part.length, total, self.dataset.sample_rate)

        found = self.dataset.clip(part.item, choose, torch.Generator().manual_seed(0))
        if isinstance(found, Rejected):
            return Rejected(f"{found.path} ({part.name})", found.reason)
        audio, metadata = found
        real = int(metadata["padding_mask"].sum())
        total = metadata["total_samples"]
        return audio, {**metadata, "part": part.name, "offset": part.offset, "real": real, "total": total}


class DatasetParts(ClipDataset):
    """The items of any other dataset, each once, as it makes them without augmentation."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset
        self.problems = list(dataset.problems)
        self.parts = [Part(f"item/{i:08d}", i, 0, 0) for i in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        found = self.dataset[ItemKey(key.index, key.index)]
        if isinstance(found, Rejected):
            return found
        audio, metadata = found
        mask = metadata.get("padding_mask")
        real = audio.shape[-1] if mask is None else int(mask.sum())
        added = {"part": self.parts[key.index].name, "offset": 0, "real": real, "total": real}
        return audio, {**metadata, **added}


def _aligned(total: int, crop: int, step: int) -> list[int]:
    """Starts rounded down to multiples of `step`: parts overlap by less than one step, none is left out."""
    starts = [0]
    while starts[-1] + crop < total:
        starts.append((starts[-1] + crop) // step * step)
    return starts
