"""Sound for a codec: a folder of files, or a dataset file."""

from __future__ import annotations

import os
from typing import Any

from stable_audio.characters import refuse_name
from stable_audio.config import load_dataset_config
from stable_audio.data.audio_dir import AudioDirDataset
from stable_audio.data.parts import DatasetParts, FileParts
from stable_audio.data.wds import WdsDataset
from stable_audio.factory import create_dataset
from stable_audio.inference.codec.load import Codec
from stable_audio.shipped import file_or_shipped


def sound_parts(source: str, codec: Codec, *, crop: int | None = None) -> FileParts | DatasetParts:
    """The pieces of a folder of sound files or of a dataset, at the codec's rate and channels, not augmented.

    Args:
        source: folder, dataset file, or name of a dataset file that comes with the package.
        codec: gives sample rate, channels and the multiple of samples that pieces are padded to.
        crop: length in samples of the pieces that files are cut into; None: whole files.

    Raises:
        ValueError: `source` holds no sound, or none that can be cut.
    """
    return parts_of(
        source,
        sample_rate=codec.sample_rate,
        sample_size=crop or codec.sample_size,
        audio_channels=codec.pretransform.io_channels,
        downsampling_ratio=codec.pretransform.downsampling_ratio,
        crop=crop,
    )


def parts_of(
    source: str,
    *,
    sample_rate: int,
    sample_size: int,
    audio_channels: int,
    downsampling_ratio: int,
    crop: int | None = None,
) -> FileParts | DatasetParts:
    """`sound_parts` for a codec of which no more than its shape is known.

    Args:
        sample_size: length in samples of the items of a dataset that is not read from files.
        downsampling_ratio: the multiple of samples that pieces are padded to.
        crop: as for `sound_parts`.

    Raises:
        ValueError: as for `sound_parts`.
    """
    dataset = create_dataset(
        _source_config(source),
        sample_rate=sample_rate,
        sample_size=sample_size,
        audio_channels=audio_channels,
        augment=False,
        downsampling_ratio=downsampling_ratio,
    )
    if isinstance(dataset, (AudioDirDataset, WdsDataset)):
        return FileParts(dataset, crop=crop, multiple=downsampling_ratio)
    return DatasetParts(dataset)


def _source_config(source: str) -> Any:
    if os.path.isdir(source):
        refuse_name(source, "folders of a dataset")
        return load_dataset_config(
            {"dataset_type": "audio_dir", "datasets": [{"id": "audio", "path": source}]}
        )
    source = os.fspath(file_or_shipped(source, "dataset"))
    if not os.path.isfile(source) or not source.endswith(".json"):
        state = "is neither" if os.path.exists(source) else "does not exist"
        raise ValueError(f"{source}: {state}; give a folder of sound files or a dataset file (.json)")
    config = load_dataset_config(source)
    if config.dataset_type == "pre_encoded" or getattr(config, "pre_encoded", False):
        raise ValueError(f"{source}: describes latents, but sound is needed")
    return config
