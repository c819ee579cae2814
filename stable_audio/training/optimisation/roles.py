"""Parameter groups of an optimizer by the roles of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from stable_audio.backbones.base import Backbone
from stable_audio.nn.matrices import hidden_matrices
from stable_audio.optim import OPTIMIZERS
from stable_audio.optim.muon import Muon, by_matrices
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.networks import TrainedNetwork


def by_role(
    network: TrainedNetwork, groups: Sequence[Mapping[str, Any]], weights: Mapping[Any, Any] | None = None
) -> list[Any]:
    """Parameter groups, divided where the optimizer of the network treats hidden matrices apart.

    Args:
        weights: weight of the network -> what stands for it in the groups; None: the weights themselves.

    Raises:
        TrainingError: the optimizer needs hidden matrices, and the run trains none.
    """
    kind = OPTIMIZERS.get(str(network.choice.optimizer.get("type")))
    if kind is None or not issubclass(kind, Muon):
        return list(groups)
    matrices: dict[Any, int] = {}
    for weight, count in _matrices_of(network.module).items():
        if weights is None:
            matrices[weight] = count
        elif weight in weights:
            matrices[weights[weight]] = count
    if not matrices:
        raise TrainingError(
            f"the optimizer 'Muon' steps on matrices between hidden features, but the {network.name} trains "
            "none (adapters, gains and biases are none); use AdamW"
        )
    return by_matrices(groups, matrices)


def _matrices_of(module: nn.Module) -> dict[nn.Parameter, int]:
    """What the backbones in a network say; of networks without one, what is in their blocks."""
    backbones = [part for part in module.modules() if isinstance(part, Backbone)]
    if not backbones:
        return hidden_matrices(module)
    return {weight: n for backbone in backbones for weight, n in backbone.hidden_matrices().items()}
