"""A method of training: what builds its module and its demos, and which options it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stable_audio.config import ModelConfig
from stable_audio.training.base import TrainingModule
from stable_audio.training.demo import DemoRenderer


def no_demos(config: ModelConfig) -> None:
    """The builder of demos of a method without demos."""


@dataclass(frozen=True)
class Method:
    """Builders of one kind of training.

    Attributes:
        training: (config, model, keywords of `TrainingModule`) -> the module that trains the model.
        demos: config -> (renderer, steps between demos), None if the config has no demos.
        options: class whose constructor's own keywords are those of `training.method_options`, which reach
            `training` among the keywords of the module; None: the method has no options.
    """

    training: Callable[[ModelConfig, Any, Mapping[str, Any]], TrainingModule]
    demos: Callable[[ModelConfig], tuple[DemoRenderer, int] | None] = no_demos
    options: type | None = None
