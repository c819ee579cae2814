"""The optimizer and the LR scheduler of a network, as a run needs them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from stable_audio.optim import OPTIMIZERS, build_optimizer, build_scheduler
from stable_audio.optim.rate_factors import apply_rate_factors
from stable_audio.training.errors import TrainingError
from stable_audio.training.optimisation.networks import TrainedNetwork
from stable_audio.training.optimisation.roles import by_role
from stable_audio.training.optimisation.trainable import rate_groups


def network_optimizer(
    network: TrainedNetwork, rate_factors: Mapping[int, float], *, precision: str
) -> Optimizer:
    """The optimizer of a network's trainable weights.

    Args:
        network: with the choice of its optimizer.
        rate_factors: id of a weight -> factor of its learning rate; 1 where there is none.
        precision: of the run.

    Raises:
        TrainingError: no weight is trainable.
    """
    parameters = [p for p in network.module.parameters() if p.requires_grad]
    if not parameters:
        raise TrainingError(f"no parameter of {type(network.module).__name__} is trainable")
    choice = _with_fused(network.choice.optimizer, precision)
    if not rate_factors:
        return build_optimizer(choice, by_role(network, [{"params": parameters}]))
    groups = rate_groups(parameters, rate_factors)
    optimizer = build_optimizer(choice, by_role(network, groups))
    apply_rate_factors(optimizer)
    return optimizer


def network_scheduler(network: TrainedNetwork, optimizer: Optimizer, steps: int) -> Any:
    """The LR scheduler of a network, or None.

    Args:
        network: with the choice of its scheduler.
        optimizer: whose rate changes.
        steps: that the network takes, -1: no end.
    """
    chosen = network.choice.scheduler
    return None if chosen is None else build_scheduler(chosen, optimizer, steps=steps)


def _with_fused(optimizer: Mapping[str, Any], precision: str) -> Mapping[str, Any]:
    """The optimizer, not fused with float16: fused ones would unscale gradients again, after clipping."""
    cls = OPTIMIZERS.get(optimizer.get("type", ""))
    if cls is None or precision != "16-mixed" or "fused" not in inspect.signature(cls).parameters:
        return optimizer
    return {**optimizer, "config": {"fused": False, **(optimizer.get("config") or {})}}
