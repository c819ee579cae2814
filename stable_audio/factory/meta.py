"""Building without memory: shapes only, and an end to what would take hours."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MAX_OPERATIONS = 20_000
"""Tensor operations of a constructor: three times what the largest published models need."""


class TooLargeError(ValueError):
    """A part that is made of more pieces than any model has."""


class _Limit(TorchFunctionMode):
    """Ends what would build for hours because of a number that nobody meant."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise TooLargeError("is made of more layers than any model has")
        return func(*args, **(kwargs or {}))


def on_meta(build: Any, *args: Any, **kwargs: Any) -> Any:
    """Build without memory or arithmetic, and without moving any random stream.

    Raises:
        TooLargeError: a count of layers beyond all reason, before it takes hours.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Limit():
        return build(*args, **kwargs)
