"""Loggers for the scalars, sounds and pictures of a run, by name.

To add a logger: one file with a subclass of `RunLogger`, one line here.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from stable_audio.training.record.loggers.base import RunLogger
from stable_audio.training.record.loggers.csv_logger import CSVLogger
from stable_audio.training.record.loggers.guarded import GuardedLogger
from stable_audio.training.record.loggers.several import SeveralLoggers
from stable_audio.training.record.loggers.tensorboard_logger import TensorBoardLogger
from stable_audio.training.record.loggers.wandb_logger import WandbLogger

LOGGERS: dict[str, type[RunLogger]] = {
    "none": RunLogger,
    "csv": CSVLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}

EXTRAS = {"tensorboard": ("tensorboard", "train"), "wandb": ("wandb", "wandb")}
"""Logger -> the package that it needs, and the extra that installs it."""


def logger_names(names: str) -> list[str]:
    """Split `csv,tensorboard` into names; an empty text is `none`.

    Raises:
        ValueError: an unknown name.
        ImportError: an extra is missing; the message names it.
    """
    parts = [n.strip() for n in names.split(",") if n.strip()] or ["none"]
    unknown = [n for n in parts if n not in LOGGERS]
    if unknown:
        raise ValueError(f"--logger {unknown[0]!r} is unknown; allowed: {', '.join(LOGGERS)}")
    for name in parts:
        package, extra = EXTRAS.get(name, ("csv", ""))
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'--logger {name} needs: pip install "stable-audio[{extra}]"')
    return parts


def check_loggers(names: str) -> None:
    """Raise at once the errors that `create_logger` would raise after minutes of reading files.

    Raises:
        ValueError: an unknown name, or Weights & Biases without a key.
        ImportError: an extra is missing.
    """
    if "wandb" in logger_names(names):
        WandbLogger.check()


def create_logger(names: str, **options: Any) -> RunLogger:
    """One logger, or several by names with commas between: `csv,tensorboard`.

    Raises:
        ValueError: an unknown name.
        ImportError: an extra is missing; the message names it.
    """
    parts = logger_names(names)
    os.makedirs(options["folder"], exist_ok=True)
    return SeveralLoggers([GuardedLogger(LOGGERS[n](**options)) for n in parts])
