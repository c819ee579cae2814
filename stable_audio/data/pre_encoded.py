"""`dataset_type: pre_encoded`: latents made in advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stable_audio.data.base import Clip, ClipDataset, DataError, ItemKey, Rejected, check_entries
from stable_audio.data.compact import compact_pairs
from stable_audio.data.crop import CROP_KEYS
from stable_audio.data.custom_metadata import CustomMetadata
from stable_audio.data.latent_clips import LatentClips
from stable_audio.data.latent_sources import LatentSource, open_folder, seconds_in
from stable_audio.data.length_limits import LengthLimits
from stable_audio.options import Flat, takes_keywords
from stable_audio.types import Metadata


@dataclass(frozen=True)
class PreEncodedEntry:
    """One folder of a `pre_encoded` dataset: output of the encode command, or X.npy with X.json.

    Attributes:
        id: name of the folder in metadata["dataset"].
        path: folder that the encode command wrote, or a folder of X.npy with X.json.
        weight: relative chance of each clip in the folder.
        keywords: use only clips whose name contains one of these words.
        filelist_path: text file with one path per line instead of a scan.
        latent_extension: suffix of the latent files; overrides that of the dataset file.
        custom_metadata_module: Python file with get_custom_metadata(info, latents).
    """

    id: str
    path: str
    custom_metadata_module: str | None = None
    weight: float = 1.0
    keywords: list[str] | None = None
    filelist_path: str | None = None
    latent_extension: str | None = None


class PreEncodedDataset(ClipDataset):
    """Latents, cropped or padded, with metadata that belongs to the crop.

    Args:
        sample_rate: sample rate in Hz of the audio that was encoded.
        augment: whether to crop at random.
        downsampling_ratio: audio samples per latent frame.
        autoencoder_hash: hash of the model's pretransform; latents of another one are refused.
        datasets: the folders.
        latent_crop_length: frames of a clip; None: clips keep their own length.
        limits: allowed lengths of the files of clips; its fields are keywords as well.
        random_crop: use a random part of longer clips, otherwise their beginning.
        latent_extension: suffix of the files in folders without a manifest.
        drop_last: leave out batches that are not full.
        bucket_lengths: frames. A clip goes to the smallest bucket that holds it and is padded to its
            length; longer ones are cropped to the largest. A batch holds one bucket. Excludes
            latent_crop_length.
        pack_length: frames of a row that several clips share, without padding; the batch size counts rows.
            Longer clips are cropped to it. Needs a backbone with `forward_packed`. Excludes
            latent_crop_length and bucket_lengths.

    Raises:
        DataError: nothing to read, or latents of another autoencoder than the model's.
    """

    @takes_keywords
    def __init__(
        self,
        *,
        sample_rate: int,
        augment: bool = True,
        downsampling_ratio: int = 1,
        autoencoder_hash: str | None = None,
        datasets: list[PreEncodedEntry],
        latent_crop_length: int | None = None,
        limits: Flat[LengthLimits] = LengthLimits(),  # noqa: B008 (frozen)
        random_crop: bool = False,
        latent_extension: str = "npy",
        drop_last: bool = True,
        bucket_lengths: list[int] | None = None,
        pack_length: int | None = None,
    ) -> None:
        _check(datasets, latent_crop_length, bucket_lengths, pack_length)
        self.clips = LatentClips(
            sample_rate=sample_rate,
            ratio=downsampling_ratio,
            crop_length=latent_crop_length,
            random_crop=random_crop and augment,
            bucket_lengths=sorted(bucket_lengths) if bucket_lengths else None,
            longest=pack_length,
        )
        self.row_length = pack_length
        self.limits = limits
        self.drop_last = drop_last
        self.entries = datasets
        self.sources: list[LatentSource] = []
        self.custom: list[CustomMetadata | None] = []
        items: list[tuple[int, int]] = []
        self.problems: list[Rejected] = []
        for number, entry in enumerate(datasets):
            source = open_folder(
                entry.path,
                extension=entry.latent_extension or latent_extension,
                filelist_path=entry.filelist_path,
                keywords=entry.keywords,
            )
            self._check_origin(entry.path, source.manifest, autoencoder_hash)
            self.sources.append(source)
            self.problems += source.problems
            self.custom.append(
                CustomMetadata(entry.custom_metadata_module) if entry.custom_metadata_module else None
            )
            items += [(number, i) for i in range(len(source))]
        self.items = compact_pairs(items)
        if limits or bucket_lengths or pack_length:
            self._select()
        if any(entry.weight != 1.0 for entry in datasets):
            self.weights = [datasets[number].weight for number, _ in self.items]

    def _check_origin(self, path: str, manifest: dict[str, Any] | None, model_id: str | None) -> None:
        """Refuse latents of another autoencoder: a model trained on them would generate noise."""
        if manifest is None:
            return
        origin = manifest.get("autoencoder_hash")
        if model_id is not None and origin is not None and model_id != origin:
            raise DataError(
                f"{path}: these latents were made by another autoencoder ({origin}, "
                f"{manifest.get('autoencoder', 'unknown')}) than the model's ({model_id}); encode again, or "
                f"load the weights that made them"
            )
        for name, value in (
            ("sample_rate", self.clips.sample_rate),
            ("downsampling_ratio", self.clips.ratio),
        ):
            if manifest[name] != value:
                raise DataError(f"{path}: latents have {name} {manifest[name]}, the model has {value}")

    def _select(self) -> None:
        """Apply the length filters and set buckets and lengths; this reads the metadata of every clip."""
        items, buckets, lengths = [], [], []
        low, high = self.limits.bounds
        for number, index in self.items:
            try:
                _, valid, metadata = self.sources[number].describe(index)
                time_key = next((k for k in ("file_seconds", "seconds_total") if k in metadata), None)
                seconds = (
                    seconds_in(metadata, time_key, 0.0) if time_key is not None else self.clips.seconds(valid)
                )
            except ValueError as error:
                self.problems.append(Rejected(self.sources[number].name(index), str(error)))
                continue
            if low <= seconds <= high:
                items.append((number, index))
                buckets.append(self.clips.bucket(valid))
                lengths.append(valid)
        if not items:
            raise DataError(f"no clip of {len(self.items)} lasts between {low} and {high} seconds")
        self.items = compact_pairs(items)
        self.buckets = buckets if self.clips.bucket_lengths else None
        self.lengths = lengths if self.row_length else None

    def __len__(self) -> int:
        return len(self.items)

    def item_names(self) -> list[str]:
        return [
            self.sources[number].name(index).removeprefix(self.entries[number].path.rstrip("/") + "/")
            for number, index in self.items
        ]

    def item_sizes(self) -> Sequence[int]:
        return [self.sources[number].size(index) for number, index in self.items]

    def stored_metadata(self, index: int) -> Metadata | None:
        number, position = self.items[index]
        if self.custom[number] is not None:
            return None
        metadata = self.sources[number].describe(position)[2]
        return {**dict.fromkeys(CROP_KEYS, 0), **metadata, "dataset": self.entries[number].id}

    def __getitem__(self, key: ItemKey) -> Clip | Rejected:
        """Latents (c frames) float32, unscaled, and their metadata."""
        number, index = self.items[key.index]
        extra = {"dataset": self.entries[number].id}
        return self.clips.make(self.sources[number], index, extra, key.generator(), self.custom[number])


def _check(
    entries: Sequence[PreEncodedEntry],
    crop_length: int | None,
    bucket_lengths: Sequence[int] | None,
    pack_length: int | None,
) -> None:
    check_entries(entries)
    if crop_length is not None and crop_length < 1:
        raise DataError(f"$.latent_crop_length: at least 1 frame, found {crop_length}")
    if bucket_lengths is not None and (
        crop_length is not None or not bucket_lengths or min(bucket_lengths) < 1
    ):
        raise DataError(
            f"$.bucket_lengths: positive lengths, without latent_crop_length; found {list(bucket_lengths)}"
        )
    if pack_length is not None and (pack_length < 1 or crop_length is not None or bucket_lengths is not None):
        raise DataError(
            "$.pack_length: at least 1 frame, without latent_crop_length and bucket_lengths; "
            f"found {pack_length}"
        )
