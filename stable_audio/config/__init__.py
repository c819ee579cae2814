"""JSON files -> typed configuration. The only folder that knows JSON or pydantic.

`load_config` reads a model file, `load_dataset_config` a dataset file. Both raise one ConfigError that
holds every mistake of the file.
"""

from stable_audio.config.load import load_config, load_dataset_config
from stable_audio.config.problems import ConfigError, Problem
from stable_audio.config.top import MODEL_TYPES, ModelConfig

__all__ = [
    "MODEL_TYPES",
    "ConfigError",
    "ModelConfig",
    "Problem",
    "load_config",
    "load_dataset_config",
]
