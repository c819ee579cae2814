"""Which parts of a model a run trains, and at what share of the learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from stable_audio.config import ModelConfig
from stable_audio.optim.rate_factors import FACTOR
from stable_audio.training.errors import TrainingError
from stable_audio.transforms.freezing import matches_part, weight_places
from stable_audio.wording import hint

SECTION = "$.training.trainable"


def rate_factors(config: ModelConfig, model: nn.Module) -> dict[int, float]:
    """id of a weight -> factor of its learning rate, of those that `trainable.lr_multipliers` names.

    The last name that a weight matches counts.

    Raises:
        TrainingError: a name that no trained weight has.
    """
    section = getattr(config.training, "trainable", None)
    factors: dict[int, float] = {}
    for part, factor in (section.lr_multipliers if section is not None else {}).items():
        trained = _trained(model, part, "lr_multipliers")
        factors.update(dict.fromkeys(trained, factor))
    return factors


def check_included(config: ModelConfig, model: nn.Module) -> None:
    """Refuse parts in `trainable.include` that other settings keep from training.

    Args:
        model: as it is trained.

    Raises:
        TrainingError: with the part.
    """
    section = getattr(config.training, "trainable", None)
    for part in (section.include if section is not None else None) or ():
        _trained(model, part, "include")


def rate_groups(parameters: Iterable[nn.Parameter], factors: Mapping[int, float]) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer, one for each factor; the first has the factor of the first weight."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": params, FACTOR: factor} for factor, params in groups.items()]


def _trained(model: nn.Module, part: str, key: str) -> list[int]:
    """ids of the trained weights that a name matches."""
    named = list(model.named_parameters(remove_duplicate=False))
    matched = [parameter for name, parameter in named if matches_part(name, part)]
    if not matched:
        known = sorted(weight_places(model))
        raise TrainingError(
            f"{SECTION}.{key}: found '{part}', but no part of the model with weights is called so"
            f"{hint(part, known)}"
        )
    trained = [id(parameter) for parameter in matched if parameter.requires_grad]
    if not trained:
        raise TrainingError(
            f"{SECTION}.{key}: found '{part}', but that is frozen by other settings of the model; train it "
            "there (enable_grad, requires_grad, transforms), or leave it out here"
        )
    return trained
