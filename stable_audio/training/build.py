"""Config -> the module that trains its model and the demos of it, by the method that the config names."""

from __future__ import annotations

from torch import nn

from stable_audio.config import ModelConfig
from stable_audio.training.base import TrainingModule
from stable_audio.training.demo import DemoRenderer
from stable_audio.training.errors import TrainingError
from stable_audio.training.methods import METHODS
from stable_audio.training.methods.base import Method


def build_training(
    config: ModelConfig,
    model: nn.Module,
    *,
    seed: int = 0,
    batch_size: int = 1,
    gradient_clip_val: float = 0.0,
) -> TrainingModule:
    """The module that trains `model` as its config says.

    Args:
        batch_size: items per batch and process.
        gradient_clip_val: largest gradient norm; 0 = no clipping.

    Raises:
        TrainingError: the config has no `training` section, or its model type cannot be trained so.
    """
    method = method_of(config)
    if config.untrainable:
        raise TrainingError("; ".join(map(str, config.untrainable)))
    run = {"seed": seed, "batch_size": batch_size, "gradient_clip_val": gradient_clip_val}
    return method.training(config, model, run)


def build_demos(config: ModelConfig) -> tuple[DemoRenderer, int] | None:
    """(renderer, steps between demos) as the config's `training.demo` says; None when it asks for none."""
    return method_of(config).demos(config)


def method_of(config: ModelConfig) -> Method:
    """The method of training that the config names, or the first one of its model type.

    Raises:
        TrainingError: the config has no `training` section, or its model type has no such method.
    """
    if config.training is None:
        raise TrainingError("$.training is missing: a model needs it to be trained")
    methods = {name: method for (kind, name), method in METHODS.items() if kind == config.model_type}
    if not methods:
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in METHODS))
        raise TrainingError(f"$.model_type '{config.model_type}' cannot be trained; allowed: {kinds}")
    name = config.training.method or next(iter(methods))
    if name not in methods:
        raise TrainingError(
            f"$.training.method: found '{name}', but {config.model_type} is trained by {' or '.join(methods)}"
        )
    return methods[name]
