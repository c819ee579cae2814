"""Build the training module and the demos of a config by its method of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stable_audio.config import ModelConfig
from stable_audio.config.reporting.problems import in_file, json_path
from stable_audio.config.schemas.leaf import arguments
from stable_audio.config.schemas.options import extension_model, option_mistakes
from stable_audio.optim.step_limits import StepLimits
from stable_audio.options import Flat, takes_keywords
from stable_audio.training.base import RunSettings, TrainingModule
from stable_audio.training.demo import DemoRenderer
from stable_audio.training.errors import TrainingError
from stable_audio.training.methods import METHODS
from stable_audio.training.methods.base import Method
from stable_audio.wording import names


@takes_keywords
def build_training(
    config: ModelConfig,
    model: nn.Module,
    *,
    run: Flat[RunSettings] = RunSettings(),  # noqa: B008 (frozen)
) -> TrainingModule:
    """The module that trains `model` as its config says.

    Args:
        run: settings of the run; its fields are keywords as well.

    Raises:
        TrainingError: the config has no `training` section, or its model type cannot be trained so.
    """
    with in_file(config.source):
        return _built(config, model, vars(run))


def _built(config: ModelConfig, model: nn.Module, run: Mapping[str, Any]) -> TrainingModule:
    method = method_of(config)
    if config.untrainable:
        raise TrainingError("; ".join(map(str, config.untrainable)))
    options = _options(method, config.training.method_options)
    module = method.training(config, model, {**run, **options})
    if config.training.teacher_model_ckpt is not None and module.teacher is None:
        learner = type(module).__name__
        raise TrainingError(
            f"$.training.teacher_model_ckpt: found, but nothing in {learner} learns from a teacher; remove it"
        )
    return module


def step_limits(config: ModelConfig) -> StepLimits | None:
    """How many bad steps a run of `config` skips; None: the first one ends it."""
    section = config.training.guard if config.training is not None else None
    return None if section is None else StepLimits(**arguments(section))


def build_demos(config: ModelConfig) -> tuple[DemoRenderer, int] | None:
    """(renderer, steps between demos) for `training.demo`; None if the config has no demos."""
    with in_file(config.source):
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


def _options(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that `training.method_options` gives the constructor of the method.

    Raises:
        TrainingError: with every mistake in them.
    """
    loc = ("training", "method_options")
    if method.options is None:
        if options:
            raise TrainingError(f"{json_path(loc)}: found {names(options)}, but the method has no options")
        return {}
    schema = extension_model(method.options)
    if mistakes := option_mistakes(schema, options):
        raise TrainingError("; ".join(f"{json_path((*loc, *at))}: {message}" for at, message in mistakes))
    return arguments(schema.model_validate(options))
