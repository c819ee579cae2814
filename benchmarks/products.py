"""The products of a network alone: its convolutions, matrix products and attention, called again."""

from __future__ import annotations

from typing import Any

from common import Work
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("convolution", "mm", "bmm", "addmm", "baddbmm", "_scaled_dot_product", "_linear_pointwise")
"""How the names of operations that multiply begin, with or without `_backward` behind them."""


class _Recorder(TorchDispatchMode):
    """Keeps every product with its inputs, so that layouts, strides and types stay what they were."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name.split("::")[1].startswith(PRODUCTS):
            self.calls.append((func, args, kwargs))
        return func(*args, **kwargs)


def products_alone(work: Work) -> Work:
    """The products of `work`, forward and backward, and nothing else."""
    with _Recorder() as recorder:
        work()
    calls = recorder.calls

    def again() -> None:
        for func, args, kwargs in calls:
            func(*args, **kwargs)

    return again
