"""Dataset files -> datasets, and loaders over them."""

from __future__ import annotations

from stable_audio.config.load import load_dataset_config
from stable_audio.config.reading.sources import Source
from stable_audio.config.sections.dataset import DatasetConfig
from stable_audio.data.base import ClipDataset, ItemCheck, Runtime
from stable_audio.data.foresight import warn_of_refused
from stable_audio.data.loader import Loading, ResumableLoader, make_loader
from stable_audio.options import Flat, keywords_of, takes_keywords


@takes_keywords
def create_dataset(config: DatasetConfig | Source, *, runtime: Flat[Runtime]) -> ClipDataset:
    """The dataset that a dataset file describes.

    Args:
        config: a loaded configuration, its dict, or the path of its file.
        runtime: what comes from the model; its fields, such as sample_rate, are keywords here, too.

    Raises:
        ConfigError: with every mistake of the configuration.
        DataError: there is nothing to read.
    """
    validated = dataset_config(config)
    keywords = keywords_of(validated.target)
    needed = {name: value for name, value in vars(runtime).items() if name in keywords}
    return validated.target(**validated.constructor_keywords(), **needed)


def dataset_config(source: DatasetConfig | Source) -> DatasetConfig:
    """A validated configuration as it is, anything else loaded."""
    return source if isinstance(source, DatasetConfig) else load_dataset_config(source)


@takes_keywords
def create_loader(
    config: DatasetConfig | Source,
    *,
    runtime: Flat[Runtime],
    loading: Flat[Loading],
    check: ItemCheck | None = None,
) -> ResumableLoader:
    """create_dataset, then a loader over it; `drop_last` comes from the dataset file, and where the same
    pass is repeated, as in validation, it takes all items.

    Args:
        runtime: what comes from the model; its fields are keywords here, too.
        loading: how batches are drawn; its fields, such as batch_size, are keywords here, too.
        check: why a model cannot use a clip with given metadata, or None; such clips are left out. How many
            they are is logged before the first batch, as far as that is known without reading sound, and
            DataError is raised when they are all.
    """
    dataset = create_dataset(config, runtime=runtime)
    if check is not None and loading.rank == 0:
        warn_of_refused(dataset, check)
    drop_last = dataset.drop_last and not loading.repeat
    return make_loader(dataset, loading=loading, drop_last=drop_last, check=check)
