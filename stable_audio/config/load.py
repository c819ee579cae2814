"""Dataset files -> validated configurations, or every mistake at once."""

from __future__ import annotations

from stable_audio.config.reading.sources import Source, read_source
from stable_audio.config.reading.validation import check_structure, result
from stable_audio.config.sections.dataset import DatasetConfig, dataset_models


def load_dataset_config(source: Source, *, lenient: bool = False) -> DatasetConfig:
    """Load a dataset file; `config.as_dict()` gives back its JSON form.

    Raises:
        ConfigError: with every mistake of the file.
    """
    data, name, _ = read_source(source, "dataset")
    checked = check_structure(data, tag="dataset_type", models=dataset_models(), lenient=lenient)
    config = result(checked, name)
    config._source = name
    return config
