"""`dataset_type: audio_dir`: folders of sound files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stable_audio.audio.errors import AudioError
from stable_audio.audio.io import read_info
from stable_audio.audio.loudness import integrated_loudness
from stable_audio.audio.silence import file_peak_db, sound_end
from stable_audio.audio.transforms import fit_length, peak_db, to_channels
from stable_audio.data.base import Clip, ClipDataset, DataError, ItemFacts, ItemKey, Rejected
from stable_audio.data.captions import Captions
from stable_audio.data.crop import Crop, choose_crop, read_crop
from stable_audio.data.custom_metadata import CustomMetadata
from stable_audio.data.scan import find_files
from stable_audio.types import Metadata

_SMALLEST_VOLUME_NORM_DB = -70.0


@dataclass(frozen=True)
class AudioDirEntry:
    """One folder of an `audio_dir` dataset.

    id: name of the folder in metadata["dataset"]. path: scanned with its sub-folders. weight: relative
    chance of each of its files. keywords: use only files whose name holds one of them. filelist_path:
    text file with one path (relative to `path`) per line instead of a scan. custom_metadata_module: Python
    file with get_custom_metadata(info, audio). manifest: CSV or JSONL with captions. captions: read .txt
    and .json files beside the sound.
    """

    id: str
    path: str
    custom_metadata_module: str | None = None
    weight: float = 1.0
    keywords: list[str] | None = None
    filelist_path: str | None = None
    manifest: str | None = None
    captions: bool = True


class AudioDirDataset(ClipDataset):
    """Clips of sound files: cropped or padded, resampled, with the model's channels.

    Args:
        sample_rate, sample_size, audio_channels, augment: see RUNTIME_KEYS.
        datasets: the folders.
        random_crop: a random part of longer files, otherwise their beginning.
        drop_last: leave out batches that are not full.
        phase_flip: probability of inverting the polarity.
        volume_norm: bring each clip to a random loudness of mean and standard deviation
            `volume_norm_param` (LUFS); without augmentation to the mean.
        strip_silence: cut trailing silence of 0.1 s or more off before cropping.
        silence_threshold_db: clips whose peak is lower are rejected; None keeps them.

    Raises:
        DataError: a folder does not exist or holds no sound file; a setting is out of range.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        sample_size: int,
        audio_channels: int = 2,
        augment: bool = True,
        datasets: list[AudioDirEntry],
        random_crop: bool = True,
        drop_last: bool = True,
        phase_flip: float = 0.5,
        volume_norm: bool = False,
        volume_norm_param: tuple[float, float] = (-16.0, 2.0),
        strip_silence: bool = False,
        silence_threshold_db: float | None = -60.0,
    ) -> None:
        _check(datasets, phase_flip, volume_norm_param)
        self.sample_rate, self.sample_size, self.audio_channels = sample_rate, sample_size, audio_channels
        self.augment, self.random_crop, self.drop_last = augment, random_crop, drop_last
        self.phase_flip = phase_flip
        self.volume_norm, self.volume_norm_param = volume_norm, tuple(volume_norm_param)
        self.strip_silence, self.silence_threshold_db = strip_silence, silence_threshold_db
        self.entries = datasets
        self.paths: list[str] = []
        self.entry_of: list[int] = []
        self.captions: list[Captions] = []
        self.custom: list[CustomMetadata | None] = []
        self.problems: list[Rejected] = []
        for number, entry in enumerate(datasets):
            self._add(number, entry)
        if any(entry.weight != 1.0 for entry in datasets):
            self.weights = [datasets[e].weight for e in self.entry_of]

    def _add(self, number: int, entry: AudioDirEntry) -> None:
        paths, problems = find_files(entry.path, filelist_path=entry.filelist_path, keywords=entry.keywords)
        captions = Captions(entry.path, manifest=entry.manifest, sidecars=entry.captions)
        module = entry.custom_metadata_module
        self.paths += paths
        self.entry_of += [number] * len(paths)
        self.captions.append(captions)
        self.custom.append(CustomMetadata(module) if module else None)
        self.problems += [*problems, *captions.problems]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        """The clip of `key`: audio (audio_channels sample_size) and its metadata."""
        generator = key.generator()

        def choose(frames: int, source_rate: int) -> Crop:
            return choose_crop(
                frames,
                source_rate,
                sample_rate=self.sample_rate,
                length=self.sample_size,
                generator=generator if self.random_crop and self.augment else None,
            )

        return self.clip(key.index, choose, generator)

    def clip(
        self, index: int, choose: Callable[[int, int], Crop], generator: torch.Generator
    ) -> Clip | Rejected:
        """The part of file `index` that `choose(frames, source_rate)` picks."""
        started = time.perf_counter()
        path, number = self.paths[index], self.entry_of[index]
        try:
            info = read_info(path)
            frames = sound_end(info) if self.strip_silence else info.frames
            crop = choose(frames, info.sample_rate)
            audio = read_crop(info, crop)
            if self.silence_threshold_db is not None and peak_db(audio) < self.silence_threshold_db:
                return Rejected(path, f"silent: the clip's peak is below {self.silence_threshold_db:g} dB")
            audio = self._process(audio, generator)
            metadata = self._describe(path, number, crop)
            metadata["load_time"] = time.perf_counter() - started
            return self._customise(audio, metadata, crop, self.custom[number])
        except AudioError as error:
            return Rejected(path, error.reason)
        except ValueError as error:
            return Rejected(path, str(error))

    def inspect(self, index: int, *, thorough: bool = True) -> ItemFacts | Rejected:
        path, number = self.paths[index], self.entry_of[index]
        try:
            info = read_info(path)
            captioned = "prompt" in self.captions[number](path)
            threshold = self.silence_threshold_db
            if thorough and threshold is not None and file_peak_db(info) < threshold:
                return Rejected(path, f"silent: its peak is below {threshold:g} dB")
        except AudioError as error:
            return Rejected(path, error.reason)
        except ValueError as error:
            return Rejected(path, str(error))
        name = self.entries[number].id
        return ItemFacts(name, info.seconds, info.sample_rate, info.channels, info.format, captioned)

    def _process(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        if self.volume_norm:
            audio = self._normalise(audio, generator)
        flip = float(torch.rand((), generator=generator)) < self.phase_flip
        if flip and self.augment:
            audio = -audio
        return to_channels(audio.clamp(-1, 1), self.audio_channels)

    def _normalise(self, audio: Tensor, generator: torch.Generator) -> Tensor:
        mean, deviation = self.volume_norm_param
        target = mean + deviation * float(torch.randn((), generator=generator)) * self.augment
        loudness = integrated_loudness(audio, self.sample_rate)
        if loudness < _SMALLEST_VOLUME_NORM_DB:
            return audio
        return audio * 10 ** ((target - loudness) / 20)

    def _describe(self, path: str, number: int, crop: Crop) -> Metadata:
        entry = self.entries[number]
        own = {
            "path": path,
            "relpath": os.path.relpath(path, entry.path),
            "dataset": entry.id,
            **crop.metadata(),
        }
        return {**own, **self.captions[number](path)}

    def _customise(
        self, audio: Tensor, metadata: Metadata, crop: Crop, custom: CustomMetadata | None
    ) -> Clip | Rejected:
        if custom is None:
            return audio, metadata
        found = custom(metadata, audio)
        if found.get("__reject__"):
            return Rejected(metadata["path"], "rejected by get_custom_metadata")
        extra = {k: self._same_part(v, crop) for k, v in found.get("__audio__", {}).items()}
        rest = {k: v for k, v in found.items() if k not in ("__reject__", "__audio__")}
        return audio, {**metadata, **rest, **extra}

    def _same_part(self, audio: Tensor, crop: Crop) -> Tensor:
        """The crop of the main audio applied to another version of the whole file, at the model's rate."""
        return to_channels(fit_length(audio, crop.length, offset=crop.offset), self.audio_channels)


def _check(entries: Sequence[AudioDirEntry], phase_flip: float, volume_norm_param: Sequence[float]) -> None:
    if not entries:
        raise DataError("$.datasets: empty; name at least one folder")
    ids = [entry.id for entry in entries]
    if len(set(ids)) != len(ids):
        raise DataError(f"$.datasets: ids must differ, found {ids}")
    if not 0 <= phase_flip <= 1:
        raise DataError(f"$.phase_flip: a probability between 0 and 1, found {phase_flip}")
    if len(volume_norm_param) != 2 or volume_norm_param[1] < 0:
        raise DataError(
            f"$.volume_norm_param: [mean, deviation >= 0] in LUFS, found {list(volume_norm_param)}"
        )
