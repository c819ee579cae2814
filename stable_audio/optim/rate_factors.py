"""Groups of weights whose learning rate is that of the optimizer times a factor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

FACTOR = "lr_factor"
"""Key of a parameter group."""


def apply_rate_factors(optimizer: Optimizer) -> None:
    """Multiply the rate of each group by its `FACTOR` while the optimizer steps, and only then.

    At all other times every group has the optimizer's own rate: for LR schedules, which work as they do on
    one group, so that each group follows them at its own scale; for checkpoints, also after an error within
    a step; and in the closure of a step, which may step on single weights itself.
    """
    kind: Any = type(optimizer)
    optimizer.__class__ = _by_factors(kind)


class _ByFactors:
    """Mixed into the class of an optimizer."""

    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        optimizer: Any = super()
        groups = self.param_groups
        plain = [group["lr"] for group in groups]

        def at_plain_rates() -> Any:
            assert closure is not None
            with _at_rates(groups, plain):
                return closure()

        with _at_rates(groups, [group["lr"] * group.get(FACTOR, 1.0) for group in groups]):
            return optimizer.step() if closure is None else optimizer.step(at_plain_rates)

    step.hooked = True  # type: ignore[attr-defined]  # torch's own hooks are those of the class below


@contextmanager
def _at_rates(groups: Sequence[dict[str, Any]], rates: Sequence[Any]) -> Iterator[None]:
    before = [group["lr"] for group in groups]
    for group, rate in zip(groups, rates):
        group["lr"] = rate
    try:
        yield
    finally:
        for group, rate in zip(groups, before):
            group["lr"] = rate


@functools.cache
def _by_factors(cls: Any) -> type[Optimizer]:
    return type(cls.__name__, (_ByFactors, cls), {})
