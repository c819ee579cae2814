"""Datasets, and batches from them that can be resumed in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stable_audio.data.audio_dir import AudioDirDataset
from stable_audio.data.base import (
    RUNTIME_KEYS,
    Batch,
    Clip,
    ClipDataset,
    DataError,
    ItemCheck,
    ItemKey,
    Rejected,
)
from stable_audio.data.build import build_dataset
from stable_audio.data.foresight import tell_of_refused
from stable_audio.data.loader import ResumableLoader, make_loader
from stable_audio.data.pre_encoded import PreEncodedDataset
from stable_audio.data.report import DataReport
from stable_audio.data.sampler import ResumableSampler
from stable_audio.data.synthetic import SyntheticDataset
from stable_audio.data.wds import WdsDataset

DATASETS: dict[str, type[ClipDataset]] = {
    "audio_dir": AudioDirDataset,
    "pre_encoded": PreEncodedDataset,
    "s3": WdsDataset,
    "synthetic": SyntheticDataset,
    "wds": WdsDataset,
}
"""`dataset_type` in a dataset file -> class."""

__all__ = [
    "DATASETS",
    "RUNTIME_KEYS",
    "Batch",
    "Clip",
    "ClipDataset",
    "DataError",
    "DataReport",
    "ItemCheck",
    "ItemKey",
    "Rejected",
    "ResumableLoader",
    "ResumableSampler",
    "create_dataset",
    "create_loader",
    "make_loader",
]


def create_dataset(
    config: Mapping[str, Any],
    *,
    sample_rate: int,
    sample_size: int,
    audio_channels: int = 2,
    augment: bool = True,
    downsampling_ratio: int = 1,
    autoencoder_hash: str | None = None,
) -> ClipDataset:
    """The dataset that a dataset file's dict describes; for the arguments see RUNTIME_KEYS.

    Raises:
        DataError: a key is wrong, or there is nothing to read.
    """
    runtime = {
        "sample_rate": sample_rate,
        "sample_size": sample_size,
        "audio_channels": audio_channels,
        "augment": augment,
        "downsampling_ratio": downsampling_ratio,
        "autoencoder_hash": autoencoder_hash,
    }
    return build_dataset(DATASETS, config, runtime)


def create_loader(
    config: Mapping[str, Any],
    *,
    sample_rate: int,
    sample_size: int,
    audio_channels: int = 2,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = True,
    pin_memory: bool = False,
    endless: bool = True,
    repeat: bool = False,
    augment: bool = True,
    downsampling_ratio: int = 1,
    autoencoder_hash: str | None = None,
    check: ItemCheck | None = None,
) -> ResumableLoader:
    """create_dataset, then a loader over it; `drop_last` comes from the dataset file, and where the same
    pass is repeated, as in validation, it takes all items.

    Args:
        check: why a model cannot use a clip with given metadata, or None; such clips are left out. How many
            they are is logged before the first batch, as far as that is known without reading sound, and
            DataError is raised when they are all.
    """
    dataset = create_dataset(
        config,
        sample_rate=sample_rate,
        sample_size=sample_size,
        audio_channels=audio_channels,
        augment=augment,
        downsampling_ratio=downsampling_ratio,
        autoencoder_hash=autoencoder_hash,
    )
    if check is not None and rank == 0:
        tell_of_refused(dataset, check)
    return make_loader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=seed,
        rank=rank,
        world_size=world_size,
        shuffle=shuffle,
        drop_last=dataset.drop_last and not repeat,
        pin_memory=pin_memory,
        endless=endless,
        repeat=repeat,
        check=check,
    )
