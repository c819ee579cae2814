"""Build models as shapes only, without memory, and stop those that would take hours to build."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MAX_OPERATIONS = 20_000
"""Maximum tensor operations of a constructor: three times those of the largest published models."""


class TooLargeError(ValueError):
    """A part with more layers than any model has."""


class _Limit(TorchFunctionMode):
    """Counts tensor operations and raises TooLargeError above MAX_OPERATIONS."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise TooLargeError("has more layers than any model")
        return func(*args, **(kwargs or {}))


def on_meta(build: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `build` on the meta device, without memory or arithmetic, and without advancing random generators.

    Raises:
        TooLargeError: `build` makes more layers than any model has.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"), _Limit():
        return build(*args, **kwargs)
