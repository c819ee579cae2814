"""`dataset_type: wds` (or `s3`): samples in tar files, read in place in any order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stable_audio.audio.slices import FileSlice
from stable_audio.audio.tags import read_tags
from stable_audio.data.base import (
    Clip,
    ClipDataset,
    DataError,
    ItemFacts,
    ItemKey,
    Rejected,
    check_entries,
    has_caption,
)
from stable_audio.data.caption_templates import CaptionTemplates
from stable_audio.data.captions import RESERVED, with_prompt
from stable_audio.data.clips import Choose, ClipMaker, ClipOptions
from stable_audio.data.compact import compact_values
from stable_audio.data.crop import CROP_KEYS, Crop
from stable_audio.data.custom_metadata import CustomMetadata
from stable_audio.data.facts import inspect_sound
from stable_audio.data.latent_clips import LatentClips
from stable_audio.data.latent_sources import seconds_in
from stable_audio.data.length_limits import LengthLimits
from stable_audio.data.s3 import default_cache, fetch_tars
from stable_audio.data.tar_latents import TarLatents
from stable_audio.data.tars import Sample, find_tars, index_tar
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Metadata

AUDIO_PARTS = ("flac", "wav", "mp3", "m4a", "ogg", "opus")


@dataclass(frozen=True)
class WdsEntry:
    """Tars of a `wds` dataset: at `path` on this machine, or at `s3_path`.

    Attributes:
        id: name of the entry in metadata["dataset"].
        path: a tar, or a folder of tars.
        s3_path: s3://bucket/prefix, copied to `cache_dir` by the `aws` program.
        profile: profile of the `aws` program.
        weight: relative chance of each sample in the tars.
        custom_metadata_module: Python file with get_custom_metadata(info, audio).
        caption_template: as in `audio_dir`, with the sample's key as the name.
    """

    id: str
    path: str | None = None
    s3_path: str | None = None
    profile: str | None = None
    weight: float = 1.0
    custom_metadata_module: str | None = None
    caption_template: list[str] | str | None = None


@dataclass(frozen=True, kw_only=True)
class SilenceRemoval:
    """Keys of stable-audio-tools for removing silence in the middle of sounds, which is not offered.

    Attributes:
        remove_silence: must be false; use `strip_silence` instead.
        silence_threshold: belongs to `remove_silence` and has no effect.
        max_silence_duration: belongs to `remove_silence` and has no effect.

    Raises:
        DataError: `remove_silence` is true.
    """

    remove_silence: bool = False
    silence_threshold: tuple[float, float] = (0.01, 0.5)
    max_silence_duration: float = 0.25

    def __post_init__(self) -> None:
        if self.remove_silence:
            raise DataError(
                f"$.remove_silence: cutting silence out of the middle (threshold {self.silence_threshold}, "
                f"longest {self.max_silence_duration} s) is not offered; use strip_silence for the end"
            )


class WdsDataset(ClipDataset):
    """Samples (sound or latents with a .json) from tar files.

    Args:
        clips: the conversion of sounds to clips; its fields are keywords as well.
        downsampling_ratio: audio samples per latent frame.
        datasets: the tars.
        drop_last: leave out batches that are not full.
        limits: allowed lengths of samples; its fields are keywords as well.
        epoch_steps: batches per epoch with `resampled_shards`.
        resampled_shards: draw samples with replacement; otherwise an epoch is one pass over all.
        pre_encoded: whether the samples are latents (.npy).
        latent_crop_length: frames of a clip of latents.
        cache_dir: folder for tars from `s3_path`; None: `stable_audio/tars` in the user's cache folder.
        removal: removal of silence in the middle, which is not offered; its fields are keywords as well.

    Raises:
        DataError: no tar or no sample is found, or a setting is not offered.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        clips: Flat[ClipOptions],
        downsampling_ratio: int = 1,
        datasets: list[WdsEntry],
        drop_last: bool = True,
        limits: Flat[LengthLimits] = LengthLimits(),  # noqa: B008 (frozen)
        epoch_steps: int = 2000,
        resampled_shards: bool = True,
        pre_encoded: bool = False,
        latent_crop_length: int | None = None,
        cache_dir: str | None = None,
        removal: Flat[SilenceRemoval] = SilenceRemoval(),
    ) -> None:
        check_entries(datasets)
        self.maker = ClipMaker(clips)
        self.latent_clips = LatentClips(
            sample_rate=clips.sample_rate,
            ratio=downsampling_ratio,
            crop_length=latent_crop_length,
            random_crop=clips.random_crop and clips.augment,
        )
        self.drop_last, self.pre_encoded = drop_last, pre_encoded
        self.limits = limits
        self.epoch_batches = epoch_steps if resampled_shards else None
        self.entries = datasets
        samples: list[Sample] = []
        self.entry_of: list[int] = []
        self.custom: list[CustomMetadata | None] = []
        self.templates: list[CaptionTemplates | None] = []
        self.problems: list[Rejected] = []
        for number, entry in enumerate(datasets):
            samples += self._add(number, entry, cache_dir)
        self.samples: Sequence[Sample] = compact_values(samples)
        if any(entry.weight != 1.0 for entry in datasets):
            self.weights = [datasets[number].weight for number in self.entry_of]

    def _add(self, number: int, entry: WdsEntry, cache_dir: str | None) -> list[Sample]:
        """Add what one entry has; returns its samples."""
        suffixes = ("npy",) if self.pre_encoded else AUDIO_PARTS
        usable: list[Sample] = []
        for tar in self._tars(number, entry, cache_dir):
            samples, problems = index_tar(tar)
            self.problems += problems
            for sample in samples:
                if sample.first(suffixes) is None or "json" not in sample.parts:
                    reason = f"needs a .json and one of {', '.join('.' + w for w in suffixes)}"
                    self.problems.append(Rejected(sample.name, f"{reason}; has {sorted(sample.parts)}"))
                else:
                    usable.append(sample)
        if not usable:
            reasons = "; ".join(f"{p.path}: {p.reason}" for p in self.problems[:3])
            raise DataError(f"{entry.path or entry.s3_path}: no usable sample in its tars ({reasons})")
        self.entry_of += [number] * len(usable)
        module = entry.custom_metadata_module
        self.custom.append(CustomMetadata(module) if module else None)
        template = entry.caption_template
        self.templates.append(CaptionTemplates(template) if template is not None else None)
        return usable

    def _tars(self, number: int, entry: WdsEntry, cache_dir: str | None) -> list[str]:
        if (entry.path is None) == (entry.s3_path is None):
            raise DataError(f"$.datasets[{number}]: give either path or s3_path")
        if entry.path is not None:
            tars, problems = find_tars(entry.path)
            self.problems += problems
            return tars
        assert entry.s3_path is not None
        tars, problems = fetch_tars(entry.s3_path, cache_dir or default_cache(), profile=entry.profile)
        self.problems += problems
        return tars

    def __len__(self) -> int:
        return len(self.samples)

    def item_names(self) -> list[str]:
        return [sample.name.rpartition("/")[2] for sample in self.samples]

    def item_sizes(self) -> Sequence[int]:
        return [sum([part.size for part in sample.parts.values()]) for sample in self.samples]

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        generator = key.generator()
        if self.pre_encoded:
            return self._latents(key.index, generator)
        return self.clip(key.index, self.maker.chooser(generator), generator)

    def stored_metadata(self, index: int) -> Metadata | None:
        sample, number = self.samples[index], self.entry_of[index]
        if self.custom[number] is not None:
            return None
        return self._describe(sample, number, dict.fromkeys(CROP_KEYS, 0))

    def inspect(self, index: int, *, thorough: bool = True) -> ItemFacts | Rejected:
        if self.pre_encoded:
            return super().inspect(index, thorough=thorough)
        sample, number = self.samples[index], self.entry_of[index]
        part = sample.first(AUDIO_PARTS)
        assert part is not None

        def describe(crop: Crop) -> Metadata:
            self.limits.check(crop.total / crop.sample_rate)
            return self._describe(sample, number, crop.metadata())

        return inspect_sound(
            self.maker,
            part,
            part.name,
            self.entries[number].id,
            describe,
            self.custom[number],
            thorough=thorough,
        )

    def _latents(self, index: int, generator: torch.Generator) -> Clip | Rejected:
        sample, number = self.samples[index], self.entry_of[index]
        try:
            metadata = with_prompt(sample.metadata())
            source = TarLatents(sample)
            self.limits.check(self._latent_seconds(source, metadata))
        except ValueError as error:
            return Rejected(sample.name, str(error))
        extra: Metadata = {"__key__": sample.key, "dataset": self.entries[number].id}
        extra |= {"prompt": metadata["prompt"]} if "prompt" in metadata else {}
        return self.latent_clips.make(source, 0, extra, generator, self.custom[number])

    def _latent_seconds(self, source: TarLatents, metadata: Metadata) -> float:
        """Length in seconds of the file according to its .json, or else of the latents."""
        if metadata.get("seconds_total") is None:
            return self.latent_clips.seconds(source.describe(0)[1])
        return seconds_in(metadata, "seconds_total", 0.0)

    def sound(self, index: int) -> tuple[str, FileSlice]:
        """(unique name, bytes of its tar) of the sound of sample `index`."""
        sample, entry = self.samples[index], self.entries[self.entry_of[index]]
        part = sample.first(AUDIO_PARTS)
        assert part is not None
        root = entry.path if entry.path is not None and os.path.isdir(entry.path) else None
        tar = os.path.basename(sample.tar) if root is None else os.path.relpath(sample.tar, root)
        return f"{entry.id}/{tar}/{sample.key}{os.path.splitext(part.name)[1]}", part

    def clip(self, index: int, choose: Choose, generator: torch.Generator) -> Clip | Rejected:
        """The part of the sound of sample `index` that `choose` picks."""
        sample, number = self.samples[index], self.entry_of[index]
        part = sample.first(AUDIO_PARTS)
        assert part is not None
        try:
            metadata = self._describe(sample, number, {})
        except ValueError as error:
            return Rejected(sample.name, str(error))

        def describe(crop: Crop) -> Metadata:
            self.limits.check(crop.total / crop.sample_rate)
            return {**metadata, **crop.metadata()}

        return self.maker.make(part, part.name, choose, generator, describe, self.custom[number])

    def _describe(self, sample: Sample, number: int, crop: Metadata) -> Metadata:
        """Metadata of a sample. Raises ValueError if its .json cannot be read."""
        metadata = {k: v for k, v in with_prompt(sample.metadata()).items() if k not in RESERVED}
        part = sample.first(("npy",) if self.pre_encoded else AUDIO_PARTS)
        basics = {
            "__key__": sample.key,
            "dataset": self.entries[number].id,
            "path": part.name if part is not None else sample.name,
            "relpath": sample.key,
        }
        template = self.templates[number]
        if template is not None and part is not None and not has_caption(metadata):
            caption = template(sample.key, metadata, lambda: {} if self.pre_encoded else read_tags(part))
            metadata |= {} if caption is None else {"prompt": caption}
        return {**metadata, **basics, **crop}
