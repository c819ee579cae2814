"""Dataset files -> datasets, and loaders over them."""

from __future__ import annotations

from stable_audio.config.load import load_dataset_config
from stable_audio.config.reading.sources import Source
from stable_audio.config.sections.dataset import DatasetConfig
from stable_audio.data.base import ClipDataset, ItemCheck
from stable_audio.data.foresight import warn_of_refused
from stable_audio.data.loader import ResumableLoader, make_loader
from stable_audio.options import keywords_of


def create_dataset(
    config: DatasetConfig | Source,
    *,
    sample_rate: int,
    sample_size: int,
    audio_channels: int = 2,
    augment: bool = True,
    downsampling_ratio: int = 1,
    autoencoder_hash: str | None = None,
) -> ClipDataset:
    """The dataset that a dataset file describes.

    Args:
        config: a loaded configuration, its dict, or the path of its file.
        sample_rate: this and the following arguments come from the model; see `RUNTIME_KEYS`.

    Raises:
        ConfigError: with every mistake of the configuration.
        DataError: there is nothing to read.
    """
    validated = dataset_config(config)
    runtime = {
        "sample_rate": sample_rate,
        "sample_size": sample_size,
        "audio_channels": audio_channels,
        "augment": augment,
        "downsampling_ratio": downsampling_ratio,
        "autoencoder_hash": autoencoder_hash,
    }
    taken = keywords_of(validated.target)
    needed = {k: v for k, v in runtime.items() if k in taken}
    return validated.target(**validated.constructor_keywords(), **needed)


def dataset_config(source: DatasetConfig | Source) -> DatasetConfig:
    """A validated configuration as it is, anything else loaded."""
    return source if isinstance(source, DatasetConfig) else load_dataset_config(source)


def create_loader(
    config: DatasetConfig | Source,
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
        warn_of_refused(dataset, check)
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
