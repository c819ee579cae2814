"""Datasets, and batches from them that can be resumed in the middle of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from stable_audio.data.loader import ResumableLoader, make_loader
from stable_audio.data.pre_encoded import PreEncodedDataset
from stable_audio.data.report import DataReport
from stable_audio.data.sampler import ResumableSampler
from stable_audio.data.synthetic import SyntheticDataset
from stable_audio.data.wds import WdsDataset
from stable_audio.public import names_from

if TYPE_CHECKING:
    from stable_audio.factory.datasets import create_dataset, create_loader

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

__getattr__ = names_from(
    __name__, dict.fromkeys(("create_dataset", "create_loader"), "stable_audio.factory.datasets")
)
