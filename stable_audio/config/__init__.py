"""JSON files -> typed configuration. The only folder that knows JSON or pydantic.

`load_config` reads a model file, `load_dataset_config` a dataset file. Both raise one ConfigError that
holds every mistake of the file.

    reporting/   mistakes: their place, the value there, what is allowed
    schemas/     constructors of components -> pydantic models
    sections/    the sections of both kinds of file
    rules/       what must hold between the keys of a file
    reading/     text, dicts and named files -> data of known structure
    load.py      dataset files; model files are loaded by the factory, which can build the parts for the rules
    schema.py    JSON schemas for editors

A shelf imports from those above it.
"""

from typing import TYPE_CHECKING

from stable_audio.config.load import load_dataset_config
from stable_audio.config.reporting.problems import ConfigError, Problem
from stable_audio.config.sections.dataset import DatasetConfig
from stable_audio.config.sections.top import MODEL_TYPES, ModelConfig
from stable_audio.public import names_from

if TYPE_CHECKING:
    from stable_audio.factory.loading import load_config

__all__ = [
    "MODEL_TYPES",
    "ConfigError",
    "DatasetConfig",
    "ModelConfig",
    "Problem",
    "load_config",
    "load_dataset_config",
]

__getattr__ = names_from(__name__, {"load_config": "stable_audio.factory.loading"})
