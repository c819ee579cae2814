"""Train from a model file and a dataset file."""

from __future__ import annotations

import os
from typing import Any

from stable_audio.config import ModelConfig, load_config, load_dataset_config
from stable_audio.training.errors import TrainingError
from stable_audio.training.options import RunOptions
from stable_audio.training.processes.stopping import StopRequest
from stable_audio.training.record.loggers import check_loggers
from stable_audio.training.record.start_files import EarlyLog
from stable_audio.training.saving.recovery import config_inside

PathOrName = str | os.PathLike[str]


def train_from_files(
    dataset_config: PathOrName,
    *,
    model_config: PathOrName | None = None,
    val_dataset_config: PathOrName | None = None,
    lenient: bool = False,
    stop: StopRequest | None = None,
    **settings: Any,
) -> int:
    """Train the model of a model file on the dataset of a dataset file; returns the exit status of `train`.

    Args:
        dataset_config: path of the dataset file, or name of one that comes with the package.
        model_config: the same of the model file; None: the config inside the checkpoint `ckpt_path`.
        val_dataset_config: the dataset file for validation.
        lenient: unknown keys of the files become warnings.
        settings: fields of `RunOptions`, which take precedence over the keys of the model file.

    Raises:
        ConfigError: with every mistake of a file.
        TrainingError, CheckpointError, DataError: the run cannot start or continue.
    """
    # Before files are read and models built, which may take minutes.
    check_loggers(settings.get("logger", RunOptions.logger))
    with EarlyLog() as early:
        config = _model_config(model_config, settings.get("ckpt_path", RunOptions.ckpt_path), lenient)
        dataset = load_dataset_config(dataset_config, lenient=lenient)
        validation = load_dataset_config(val_dataset_config, lenient=lenient) if val_dataset_config else None
        options = RunOptions.from_section(config.training, **settings)
        # Imports Lightning, which takes longer than finding mistakes in files.
        from stable_audio.training.trainer import train

        return train(config, dataset, options, val_dataset=validation, stop=stop, early=early)


def _model_config(path: PathOrName | None, checkpoint: str, lenient: bool) -> ModelConfig:
    if path:
        return load_config(path, lenient=lenient)
    if not checkpoint:
        raise TrainingError(
            "--model-config is required, unless --ckpt-path names a checkpoint with a config inside"
        )
    return config_inside(checkpoint, lenient=lenient, advice="give --model-config")
