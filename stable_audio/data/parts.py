"""All parts of all files, each once and in order, without augmentation, for encoding to latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import AudioSource, open_sound
from stable_audio.audio.resample import resampled_length
from stable_audio.audio.slices import FileSlice
from stable_audio.data.base import Clip, ClipDataset, ItemKey, Rejected
from stable_audio.data.clips import Choose, ClipMaker
from stable_audio.data.compact import compact_values
from stable_audio.data.crop import Crop
from stable_audio.data.seeding import derive_seed


class SoundPart(NamedTuple):
    """A piece of a dataset.

    Attributes:
        name: unique name, the same in every run.
        item: number of the item in the dataset.
        total: samples of the whole file; 0 if not known in advance.
    """

    name: str
    item: int
    offset: int
    length: int
    total: int = 0


class SoundFiles(Protocol):
    """A dataset of files of any length: `audio_dir`, or `wds` with sound."""

    maker: ClipMaker

    @property
    def problems(self) -> Sequence[Rejected]: ...

    def __len__(self) -> int: ...

    def sound(self, index: int) -> tuple[str, AudioSource]:
        """(unique name, the file)."""
        ...

    def clip(self, index: int, choose: Choose, generator: torch.Generator) -> Clip | Rejected:
        """The part of a file that `choose` picks."""
        ...


class FileParts(ClipDataset):
    """The files of a dataset, whole or cut into crops of equal length.

    Args:
        dataset: built without augmentation.
        crop: samples per part; None: whole files. The last part of a file is padded with silence.
        multiple: lengths of whole files are rounded up to a multiple of this.

    Each item's metadata has `part` (its name), `offset`, `real` (samples that are not padding) and
    `total` (samples of the file) besides the usual keys.
    """

    def __init__(self, dataset: SoundFiles, *, crop: int | None = None, multiple: int = 1) -> None:
        if crop is not None and (crop < 1 or crop % multiple):
            below, above = crop // multiple * multiple, (crop // multiple + 1) * multiple
            near = f"{below} or {above}" if below > 0 else f"{max(above, multiple)}"
            raise ValueError(
                f"crops must be a multiple of {multiple} samples, a latent frame, found {crop}; use {near}"
            )
        self.dataset = dataset
        self.problems: list[Rejected] = list(dataset.problems)
        self.parts: Sequence[SoundPart] = compact_values(
            part for index in range(len(dataset)) for part in self._parts_of(index, crop, multiple)
        )

    def _parts_of(self, index: int, crop: int | None, multiple: int) -> list[SoundPart]:
        """The parts of one file; none, and a problem, where it cannot be read or cut."""
        name, source = self.dataset.sound(index)
        file = source.name if isinstance(source, FileSlice) else str(source)
        rate = self.dataset.maker.options.sample_rate
        try:
            with open_sound(source) as sound:
                info, frames = sound.info, self.dataset.maker.frames(sound)
        except AudioError as error:
            self.problems.append(Rejected(file, error.reason))
            return []
        total = resampled_length(frames, info.sample_rate, rate)
        if crop is None:
            return [SoundPart(name, index, 0, -(-total // multiple) * multiple, total)]
        # Offsets must lie where both rates have a sample.
        step = rate // math.gcd(rate, info.sample_rate)
        if crop < min(step, total):
            reason = (
                f"no crop of {crop} samples can begin where the last one ends: its rate, "
                f"{info.sample_rate} Hz, and {rate} Hz have a sample in common only every {step} samples; "
                "resample the file, or give longer crops"
            )
            self.problems.append(Rejected(file, reason))
            return []
        starts = range(0, total, crop) if crop % step == 0 else _aligned(total, crop, step)
        return [SoundPart(f"{name}@{start}", index, start, crop, total) for start in starts]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        part = self.parts[key.index]

        def choose(frames: int, source_rate: int) -> Crop:
            rate = self.dataset.maker.options.sample_rate
            return Crop(part.offset, part.length, resampled_length(frames, source_rate, rate), rate)

        # Nothing is augmented, but a custom module may draw random numbers.
        generator = torch.Generator().manual_seed(derive_seed(part.name))
        clip = self.dataset.clip(part.item, choose, generator)
        if isinstance(clip, Rejected):
            return Rejected(f"{clip.path} ({part.name})", clip.reason)
        audio, metadata = clip
        real = int(metadata["padding_mask"].sum())
        total = metadata["total_samples"]
        return audio, {**metadata, "part": part.name, "offset": part.offset, "real": real, "total": total}


class DatasetParts(ClipDataset):
    """The items of a dataset that cuts its own clips, each once, without augmentation."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset
        self.problems = list(dataset.problems)
        self.parts: Sequence[SoundPart] = compact_values(
            SoundPart(f"item/{i:08d}", i, 0, 0) for i in range(len(dataset))
        )

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        clip = self.dataset[ItemKey(key.index, key.index)]
        if isinstance(clip, Rejected):
            return clip
        audio, metadata = clip
        mask = metadata.get("padding_mask")
        real = audio.shape[-1] if mask is None else int(mask.sum())
        position = {"part": self.parts[key.index].name, "offset": 0, "real": real, "total": real}
        return audio, {**metadata, **position}


def _aligned(total: int, crop: int, step: int) -> list[int]:
    """Starts rounded down to multiples of `step`: parts overlap by less than one step, without gaps."""
    starts = [0]
    while starts[-1] + crop < total:
        starts.append((starts[-1] + crop) // step * step)
    return starts
