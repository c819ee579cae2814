"""Groups of weights whose learning rate is that of the optimizer times a factor."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

FACTOR = "lr_factor"
"""Key of a parameter group."""


def apply_rate_factors(optimizer: Optimizer) -> None:
    """Multiply the rate of each group by its `FACTOR` while the optimizer steps.

    Between steps all groups have the optimizer's own rate, so that every LR schedule works as it does on one
    group, whatever it does: each group follows it at its own scale.
    """
    rates: list[Any] = []

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * group.get(FACTOR, 1.0)

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
