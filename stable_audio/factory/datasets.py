"""Dataset files -> datasets, and loaders over them."""

from __future__ import annotations

from stable_audio.config.load import load_dataset_config
from stable_audio.config.reading.sources import Source
from stable_audio.config.reporting.problems import in_file
from stable_audio.config.sections.dataset import DatasetConfig
from stable_audio.data.base import ClipDataset, ItemCheck, Preparation, Runtime
from stable_audio.data.foresight import warn_of_refused
from stable_audio.data.loader import Loading, ResumableLoader, make_loader
from stable_audio.options import Flat, keywords_of, takes_keywords


@takes_keywords
def create_dataset(config: DatasetConfig | Source, *, runtime: Flat[Runtime]) -> ClipDataset:
    """Build the dataset that a dataset file describes.

    Args:
        config: a loaded configuration, its dict, or the path of its file.
        runtime: settings from the model; its fields, such as sample_rate, are keywords as well.

    Raises:
        ConfigError: with every mistake of the configuration.
        DataError: no item can be read.
    """
    validated = dataset_config(config)
    keywords = keywords_of(validated.target)
    model_keywords = {name: value for name, value in vars(runtime).items() if name in keywords}
    with in_file(validated.source):
        return validated.target(**validated.constructor_keywords(), **model_keywords)


def dataset_config(source: DatasetConfig | Source) -> DatasetConfig:
    """Load the configuration, unless it is loaded already."""
    return source if isinstance(source, DatasetConfig) else load_dataset_config(source)


@takes_keywords
def create_loader(
    config: DatasetConfig | Source,
    *,
    runtime: Flat[Runtime],
    loading: Flat[Loading],
    check: ItemCheck | None = None,
    prepare: Preparation | None = None,
) -> ResumableLoader:
    """Build a dataset as `create_dataset` does, and a loader over it.

    `drop_last` comes from the dataset file; with `repeat`, as in validation, no item is dropped.

    Args:
        config: a loaded configuration, its dict, or the path of its file.
        runtime: settings from the model; its fields are keywords as well.
        loading: how batches are drawn; its fields, such as batch_size, are keywords as well.
        check: metadata -> the reason why a model cannot use the clip, or None; clips with a reason are left
            out. Their number is logged before the first batch, as far as it is known without reading sound,
            and DataError is raised if no clip is left.
        prepare: changes the metadata of the clips of a batch, in the worker.
    """
    dataset = create_dataset(config, runtime=runtime)
    if check is not None and loading.rank == 0:
        warn_of_refused(dataset, check)
    drop_last = dataset.drop_last and not loading.repeat
    return make_loader(dataset, loading=loading, drop_last=drop_last, check=check, prepare=prepare)
